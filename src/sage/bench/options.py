"""What a user can say of a whole experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sage.errors import UsageError
from sage.scheduling import scheduler_named
from sage.simulation import pipeline_named

MOST_REPEATS = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """None: the experiment's own."""

    quick: bool = False
    cluster: str = "virtual"
    """virtual, local, emulated, or a Ray cluster: its address, its name, or auto."""
    nodes: tuple[int, ...] | None = None
    workers: tuple[int, ...] | None = None
    """Processes on each node, where an experiment says so."""
    tasks: int | None = None
    pipeline: str | None = None
    scheduler: str | None = None
    repeat: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = {"nodes": self.nodes, "workers": self.workers, "tasks": self.tasks, "repeat": self.repeat}
        for name, value in given.items():
            values = value if isinstance(value, tuple) else (1 if value is None else value,)
            if value == () or min(values) < 1:
                raise UsageError("E104", "bad number", at=f"--{name}", got=value, expected="at least 1")
        if self.repeats > MOST_REPEATS:
            raise UsageError("E104", "bad number", at="--repeat", got=self.repeats, expected=f"at most {MOST_REPEATS}")
        if self.pipeline is not None:
            pipeline_named(self.pipeline)
        if self.scheduler is not None:
            scheduler_named(self.scheduler)

    @property
    def repeats(self) -> int:
        """How often each case runs, each time with another seed."""
        return self.repeat if self.repeat is not None else (3 if self.quick else 5)

    def sized(self, full: int, quick: int) -> int:
        """How many tasks."""
        return self.tasks if self.tasks is not None else (quick if self.quick else full)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def with_file(options: Options, path: Path, content: Mapping[str, Any]) -> Options:
    """`options` with what a config file says. Raises `UsageError` E104 for what there is not."""
    known = {each.name for each in fields(Options)}
    if unknown := set(content) - known:
        expected = ", ".join(sorted(known))
        raise UsageError(
            "E104", "there is no such option", at=str(path), got=", ".join(sorted(unknown)), expected=expected
        )
    values = dict(content)
    for name in ("nodes", "workers"):
        if name in values:
            values[name] = tuple(values[name]) if isinstance(values[name], list) else (values[name],)
    kinds = {"quick": bool, "cluster": str, "tasks": int, "pipeline": str, "scheduler": str, "repeat": int, "seed": int}
    for name, value in values.items():
        wrong = type(value) is not kinds[name] if name in kinds else any(type(each) is not int for each in value)
        if wrong:
            raise UsageError("E104", "a value of the wrong kind", at=f"{path}, {name}", got=value)
    return replace(options, **values)
