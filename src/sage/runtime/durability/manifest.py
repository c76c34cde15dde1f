"""What a job is: kept when its directory is made, and compared when it is opened again."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sage import codec
from sage.errors import PipelineError, StorageError
from sage.flow.graph import ExecutionGraph, StepPlan
from sage.flow.step import Kind
from sage.runtime.durability.fingerprint import fingerprint
from sage.runtime.durable import Progress
from sage.version import __version__

STATEFUL = frozenset({Kind.READ, Kind.REDUCE, Kind.WRITE, Kind.COLLECT})
"""What the journal holds more of than results of calls."""
STATELESS = frozenset({Kind.MAP, Kind.FLAT_MAP, Kind.FILTER, Kind.KEY_BY, Kind.ORDER_BY, Kind.ROUTE, Kind.UNION})


@dataclass(frozen=True, slots=True)
class StepMark:
    """A step, as far as what is stored depends on it."""

    kind: str
    inputs: Sequence[Sequence[str]]
    durable: bool
    version: str
    """Of the operator of a durable step or a reduction; of others it does not matter."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job directory belongs to this."""

    job: str
    pipeline: str
    steps: Mapping[str, StepMark]
    inputs: Sequence[str]
    """The partitions of the sources that can be read again."""
    sage: str
    python: str


def manifest_of(graph: ExecutionGraph) -> Manifest:
    """A new job that runs `graph`. Raises `PipelineError` E226 for what cannot be made to outlive its process."""
    return Manifest(
        secrets.token_hex(8), graph.pipeline, {name: _mark(plan) for name, plan in graph.steps.items()}, _inputs(graph),
        __version__, platform.python_version(),
    )  # fmt: skip


def to_bytes(manifest: Manifest) -> bytes:
    return codec.encode(asdict(manifest))


def of_bytes(data: bytes) -> Manifest:
    """What `to_bytes` stored. Raises `StorageError` E604."""
    value: Any = codec.decode(data)
    try:
        steps = {name: StepMark(**mark) for name, mark in value["steps"].items()}
        return Manifest(**{**value, "steps": steps})
    except (TypeError, KeyError, AttributeError) as error:
        raise StorageError("E604", "this is not a manifest that SAGE stored", got=data[:200]) from error


def check_same(stored: Manifest, now: Manifest, at: str, discarded: Collection[str]) -> None:
    """Raise `StorageError` E606 if what is stored cannot be continued by the pipeline as it is now.

    Steps may be added, and operators may change: their results are then made anew. What holds records or outputs must
    be there still, and be fed by the same steps; only a step that is gone may be among the `discarded`.
    """
    if stored.pipeline != now.pipeline:
        raise StorageError(
            "E606", "the job directory belongs to another pipeline", at=at, got=repr(now.pipeline),
            expected=repr(stored.pipeline), try_="another job directory",
        )  # fmt: skip
    for name, mark in stored.steps.items():
        gone = name in discarded and name not in now.steps
        if not gone and (mark.durable or mark.kind in STATEFUL):
            _check_step(name, mark, now.steps.get(name), at)


def changed_steps(stored: Manifest, now: Manifest) -> tuple[str, ...]:
    """A line for each durable step that is another one now: what it gave before is not looked up."""
    return tuple(
        f"W312 step {name!r} has changed since the job began: results of its earlier runs are not used"
        for name, mark in now.steps.items()
        if mark.durable and (before := stored.steps.get(name)) is not None and before.version != mark.version
    )


def check_inputs(stored: Manifest, now: Manifest, finished: Mapping[str, Progress], at: str) -> None:
    """Raise `StorageError` E607 if a part of the input that is not finished is there no more."""
    for partition in stored.inputs:
        if partition not in now.inputs and not finished.get(partition, Progress()).complete:
            raise StorageError(
                "E607", "the input of the job has changed: a part that is not finished is gone, or is another", at=at,
                got=", ".join(now.inputs) or "no input", expected=partition,
                try_="put the old input back, or use another job directory",
            )  # fmt: skip


def _check_step(name: str, stored: StepMark, now: StepMark | None, at: str) -> None:
    try_ = "the pipeline as it was, or another job directory"
    if now is None:
        got, try_ = "no such step", f"{try_}, or --discard-step {name}"
    elif now.kind != stored.kind:
        got = f"a {now.kind}"
    elif [list(one) for one in now.inputs] != [list(one) for one in stored.inputs] and stored.kind in STATEFUL:
        got = "it is fed by other steps"
    elif stored.kind == Kind.REDUCE and now.version != stored.version:
        got = "it reduces in another way"
    else:
        return
    raise StorageError(
        "E606", f"step {name!r} has changed since the job began", at=at, got=got,
        try_=try_,
    )  # fmt: skip


def _inputs(graph: ExecutionGraph) -> list[str]:
    sources = [plan.operator for plan in graph.steps.values() if plan.kind is Kind.READ]
    return [partition for source in sources if source.replayable for partition in source.partitions()]


def _mark(plan: StepPlan) -> StepMark:
    if plan.kind not in STATEFUL | STATELESS:
        raise PipelineError(
            "E226", "a step of this kind cannot be used with a job directory", at=f"step {plan.name!r}", got=plan.kind,
            try_="no job directory",
        )  # fmt: skip
    if plan.kind is Kind.WRITE and plan.operator.safe == "at_commit":
        raise PipelineError(
            "E226", "the sink does not say when a record is safe, so it cannot be used with a job directory",
            at=f"step {plan.name!r}", got=type(plan.operator).__name__,
            try_="a file or a database, or see Sink.safe",
        )  # fmt: skip
    versioned = plan.durable or plan.kind is Kind.REDUCE
    operator = (plan.operator.add, plan.operator.initial) if plan.kind is Kind.REDUCE else plan.operator
    if plan.kind is Kind.REDUCE:
        version = "".join(fingerprint(one) for one in operator)
    else:
        version = fingerprint(operator) if versioned else ""
    return StepMark(plan.kind.value, [[one.step, one.branch] for one in plan.inputs], plan.durable, version)
