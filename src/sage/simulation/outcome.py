"""What a simulated run brought about: one row for each record, and figures from them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import sqrt

from sage.errors import InternalError
from sage.simulation.task import Task


@dataclass(slots=True)
class Rows:
    """A column for each thing that is known of a record; row by row in the order in which they ended."""

    job: list[str] = field(default_factory=list)
    """Names of jobs, for `job_index`."""
    index: array[int] = field(default_factory=lambda: array("q"))
    job_index: array[int] = field(default_factory=lambda: array("H"))
    node: array[int] = field(default_factory=lambda: array("l"))
    intended_s: array[float] = field(default_factory=lambda: array("d"))
    ended_s: array[float] = field(default_factory=lambda: array("d"))
    scheduling_s: array[float] = field(default_factory=lambda: array("d"))
    queueing_s: array[float] = field(default_factory=lambda: array("d"))
    execution_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, task: Task) -> None:
        """It has ended."""
        self.index.append(task.index)
        self.job_index.append(task.job_index)
        self.node.append(task.node)
        self.intended_s.append(task.intended_s)
        self.ended_s.append(task.ended_s)
        self.scheduling_s.append(task.scheduling_s)
        self.queueing_s.append(task.queueing_s)
        self.execution_s.append(task.execution_s)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known of a run, in virtual seconds."""

    rows: Rows
    given: tuple[int, ...]
    """Records that each node got."""
    slots_busy: float
    """Mean share of slots that were taken."""
    endpoints_busy: tuple[float, ...]
    """Share of time in which each computed."""
    output_tokens: int
    decisions: int
    events: int
    ended_s: float

    @property
    def latencies_s(self) -> list[float]:
        """From the intended start, in the order in which records ended."""
        return [end - start for end, start in zip(self.rows.ended_s, self.rows.intended_s, strict=True)]

    @property
    def balance(self) -> float:
        """1 - sigma / mu of records for each node."""
        return balance_of(self.given)


def balance_of(given: tuple[int, ...]) -> float:
    """1 - sigma / mu."""
    mean = sum(given) / len(given)
    variance = sum((each - mean) * (each - mean) for each in given) / len(given)
    return 1 - sqrt(variance) / mean


def check_complete(rows: Rows, read: int) -> None:
    """Raise `InternalError` E902 unless each of the `read` records has ended exactly once."""
    if len(rows) != read or len(set(zip(rows.job_index, rows.index, strict=True))) != read:
        raise InternalError("E902", "records were lost in the simulation", got=len(rows), expected=str(read))
