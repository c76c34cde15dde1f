"""Steps: one described operation each, frozen. Nothing here runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypedDict

ADAPTIVE = "adaptive"
"""The value of `concurrency` and `parallelism` that asks for the number to be found while the step runs."""
OnError = Literal["dead_letter", "fail"] | Callable[[Any, Exception], Any]


class StepOptions(TypedDict, total=False):
    """What can be asked of a step, beside its operator. Unknown names are reported when the pipeline is compiled."""

    name: str
    """Unique in the pipeline; default: the operator's name."""
    batch_size: int
    """Call the operator with a list of up to so many records; it returns a list of the same length (`map` only)."""
    concurrency: int | Literal["adaptive"]
    """Calls in flight per instance: coroutines for async operators (default 64), threads for others (default 1).
    ``"adaptive"`` (async operators only): as many as do best, found while it runs."""
    parallelism: int | Literal["adaptive"]
    """Instances, each with its own copy of the operator (default 1). ``"adaptive"`` (functions that block): threads of
    one process, as many as bring something, found while it runs."""
    durable: bool
    """Results of this step cost money: a run with a job directory keeps them, and no call is made again for them."""
    retries: int
    """Further attempts after one that raised, with full jitter and a budget (default 0)."""
    timeout_s: float
    """Seconds one attempt may take."""
    on_error: OnError
    """``"dead_letter"`` (default), ``"fail"`` the job, or a function ``(record, error) -> replacement record``."""
    resources: Mapping[str, float]
    """What one instance needs on a cluster, for example ``{"cpu": 1, "gpu": 0.5}``; not used on one machine."""


class Kind(StrEnum):
    """What a step does."""

    READ = "read"
    MAP = "map"
    FLAT_MAP = "flat_map"
    FILTER = "filter"
    KEY_BY = "key_by"
    ORDER_BY = "order_by"
    REDUCE = "reduce"
    ROUTE = "route"
    UNION = "union"
    WRITE = "write"
    COLLECT = "collect"


@dataclass(frozen=True, slots=True)
class Input:
    """Where a step's records come from: a step, and which of its outputs (a branch of `route`, else "")."""

    step: str
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Reduction:
    """How the records of one key become one value: ``value = add(value, record)`` from `initial()`,
    or from the first record itself if `initial` is None. With `add` None, records are counted."""

    add: Callable[[Any, Any], Any] | None
    initial: Callable[[], Any] | None


OTHERWISE = "otherwise"
"""The branch of records that no predicate of a `route` took."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a pipeline, as the user described it; checked when the pipeline is compiled."""

    name: str
    kind: Kind
    operator: Any
    """The callable; a Source, a Sink, a Reduction, or the tuple of (branch, predicate) pairs of a route."""
    inputs: tuple[Input, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False
    """The user chose the name."""
    place: str = ""
    """``file:line`` where the step was added, for error messages."""
