"""What a run with a job directory asks of it: where to go on, what was paid for already, and what to keep.

A run without one has None in its place, everywhere. `durability/` is the implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from sage.flow.graph import StepPlan
from sage.flow.source import Reader
from sage.flow.step import Kind
from sage.record import Lineage


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is finished."""

    position: int | None = None
    """Everything at or below it is."""
    beyond: tuple[tuple[int, int], ...] = ()
    """First and last position of stretches behind it that are."""
    records: int = 0
    """So many records in all."""
    complete: bool = False
    """There is nothing more in it."""

    def covers(self, position: int) -> bool:
        """Whether the record at `position` is finished."""
        if self.position is not None and position <= self.position:
            return True
        return any(first <= position <= last for first, last in self.beyond)


class Cut(NamedTuple):
    """What of the sources was finished at one moment."""

    finished: Collection[int]
    """Numbers of the tickets that came to their end since the last cut."""
    partitions: Mapping[str, Progress]
    """Those that moved since the last cut."""


class Taken(NamedTuple):
    """What a stage has taken up since it was last asked, and the proof that it is safe."""

    output: Any
    """Where its output stands (of a sink), or None."""
    state: Sequence[tuple[Any, Any]]
    """Keys and their new values (of a reduction)."""
    records: Sequence[Any]
    """Records (of a list in memory)."""
    lineage: Sequence[Lineage]
    """What it has taken up."""


class Keeper(Protocol):
    """A stage that takes records up for good, and cannot say that they are safe until it is asked to make them so."""

    plan: StepPlan

    def take_stock(self) -> Taken | None:
        """Make safe what was taken up so far; None if that is nothing new. From another thread than its own."""

    def holding(self) -> Any:
        """All that it has taken up, as it is, for the stage that stands in its place when the run begins again."""


class Kept(Protocol):
    """What a keeper has taken up, for who lets the run begin again. From another thread than the keeper's."""

    keeper: Keeper
    instance: int

    def forget(self, finished: Collection[int]) -> None:
        """The stretches of these tickets do not come again."""

    def release(self, timeout_s: float) -> bool:
        """The keeper takes up nothing from here on; False if it does not come back from what it is at."""

    def rids(self) -> set[str]:
        """The ids that may come again."""


class Results(ABC):
    """The results of one durable step: looked up before a call, kept before they are passed on. From any thread."""

    @abstractmethod
    def key(self, rid: str, record: Any) -> bytes:
        """Names the call: the job, the step and its version, the record and its content. Raises `StorageError` E608 for
        a record that cannot be stored."""

    @abstractmethod
    def find(self, key: bytes) -> tuple[Any] | None:
        """The result of this call in a tuple, if it was made before. Raises `RecordError` E419 for a call that killed
        its process again and again."""

    @abstractmethod
    def adopt(self, key: bytes, rid: str, told: Any = None) -> tuple[Any, int] | None:
        """The result of another call that asked the same, of whichever job, if such results are shared and there is
        one. It is kept then, and the rest is as `keep` says."""

    @abstractmethod
    def check_together(self, keys: Sequence[bytes]) -> None:
        """Raise `RecordError` E419 if these calls may not be made as one, because one of them may kill its process."""

    @abstractmethod
    def enter(self, key: bytes, rid: str) -> int | None:
        """The call is about to be made; None while it must wait (then ask again soon)."""

    @abstractmethod
    def leave(self, slot: int) -> None:
        """The call has failed, or its result is safe."""

    @abstractmethod
    def keep(self, key: bytes, rid: str, result: Any, told: Any = None) -> int:
        """Keep a result; a number for `wait`. `told`, if given, is called from another thread when it is safe, or never
        will be. Raises `StorageError` E608 for a result that cannot be stored."""

    @abstractmethod
    def wait(self, number: int) -> None:
        """Wait until what got this number is safe. Raises `StorageError` if it never will be."""

    @abstractmethod
    def check(self) -> None:
        """Raise the `StorageError` that ended the journal, if one did."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where the other hosts of a run on this machine find the step journal."""

    folder: str
    epoch: int
    begun: bool = False
    """There may be results in it."""
    reuse: str | None = None
    """The folder of results that jobs share, if the run uses one."""


@dataclass(frozen=True, slots=True)
class FarBranch:
    """The step journal for hosts that do not see the job directory: they ask the driver."""

    job: str
    epoch: int
    versions: Mapping[str, str]
    """By step."""
    known: frozenset[bytes]
    """Keys of the results that there are."""
    deaths: Mapping[bytes, int]
    """By key: how often a process died while the call was in flight."""
    questions: Mapping[str, bytes] | None = None
    """By step, if results are shared with other jobs: what all its calls ask."""
    shared: frozenset[bytes] = frozenset()
    """How the keys of shared results began when the run did."""


@dataclass(frozen=True, slots=True)
class Look:
    """A host asks for a result; with `shared`, for one of any job."""

    key: bytes
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A host has a result for all jobs, encoded."""

    key: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """A host has rows to be kept; the answer is the error, if they cannot be."""

    changes: list[Any]


Question: TypeAlias = Look | Keep | Share


@dataclass(frozen=True, slots=True)
class StepBill:
    """What the calls of one durable step came to."""

    step: str
    paid: int = 0
    """Calls whose result is kept."""
    reused: int = 0
    """Calls that were not made, because an earlier run of the job had their result."""
    adopted: int = 0
    """Calls that were not made, because another job, or a call for another record, had asked the same."""
    wasted: int = 0
    """Calls at most that were made and gave no result that was kept: failed, or in flight when the process died."""
    paid_tokens: int = 0
    reused_tokens: int = 0
    adopted_tokens: int = 0


class Durability(ABC):
    """The job directory as the stages of one host see it."""

    @abstractmethod
    def branch(self) -> Branch | None:
        """For another host; None where there is no step journal."""

    def far_branch(self) -> FarBranch | None:
        """For another host that does not see the files of this one."""
        return None

    def answer(self, question: Question, reply: Callable[[object], None]) -> None:
        """Answer such a host, soon and from any thread."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Store what is left, and let go of everything."""

    @abstractmethod
    def results(self, plan: StepPlan) -> Results | None:
        """The journal of a step, if it is durable."""

    @abstractmethod
    def progress(self, partition: str) -> Progress:
        """What earlier runs have finished."""

    @abstractmethod
    def partition(self, partition: str, *, replayable: bool) -> str:
        """The name of a partition in this run: one that cannot be read again brings other records each time."""

    def reader(self, partition: str, opened: Callable[[], Reader]) -> Reader:
        """The reader of a partition that cannot be read again; `opened` opens it."""
        return opened()

    def held(self, step: str, instance: int = 0) -> Any:
        """What the stage of this step held when the run began again; None before."""
        return None

    def takes_stock_of(self, plan: StepPlan) -> bool:
        """Whether it wants to know what this sink, reduction or list takes up."""
        return plan.kind is not Kind.WRITE or plan.operator.safe == "at_sync"

    @abstractmethod
    def applied(self, step: str) -> set[str]:
        """Ids of unfinished records that this step took up in earlier runs; the caller's own."""

    @abstractmethod
    def output(self, step: str) -> Any:
        """Where the output of a sink stands; None at the beginning."""

    @abstractmethod
    def state(self, step: str) -> Sequence[tuple[Any, Any]]:
        """Keys and values of a reduction."""

    @abstractmethod
    def collected(self, step: str) -> list[Any]:
        """Records that arrived at a list in memory."""

    @abstractmethod
    def enlist(self, stock: Kept) -> None:
        """From now on its keeper is asked what it has taken up."""

    @property
    def begins_again(self) -> bool:
        """The run may begin again while it lives."""
        return False

    @property
    @abstractmethod
    def committing(self) -> bool:
        """Everything is written, and an earlier run was killed while its sinks committed."""

    @property
    @abstractmethod
    def job(self) -> str:
        """The id of the job, the same in all its runs."""
