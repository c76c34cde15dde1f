"""A disk and a job directory of the simulated world: what was committed survives, nothing else does.

Rows, checkpoints and the step journal are encoded and decoded by the product's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

from sage import codec
from sage.errors import SageError, StorageError
from sage.flow.graph import StepPlan
from sage.runtime.durability.checkpoint import Checkpoints, applied_of, progress_of
from sage.runtime.durability.memo import StepJournal
from sage.runtime.durability.opening import died
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.slots import InFlight
from sage.runtime.durable import Branch, Cut, Durability, Kept, Progress, Results

PLAN: Any = SimpleNamespace(name="pay")
Told = Callable[[], None]


class Disk:
    """What outlives every process: rows, and the number of the run that may write them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[RowKind, bytes], bytes] = {}
        self.epoch = 0

    def belongs_to(self, epoch: int) -> bool:
        """Whether no later run has begun."""
        return self.epoch == epoch

    def each(self, kind: RowKind) -> list[tuple[bytes, bytes]]:
        return sorted((key, value) for (of, key), value in self.rows.items() if of is kind)

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            at = change.kind, change.key
            if change.value is None:
                self.rows.pop(at, None)
            elif not (change.once and at in self.rows):
                self.rows[at] = change.value


class Journal:
    """The journal of one run: as `Rows` and as `Recorder`. A commit comes when `commit` is called, or never."""

    def __init__(self, disk: Disk, failed: Callable[[SageError], None]) -> None:
        disk.epoch += 1
        self.disk = disk
        self.epoch = disk.epoch
        self.failure: SageError | None = None
        self._failed = failed
        self._given: list[tuple[Sequence[Change], Told | None]] = []
        self._number = 0

    def get(self, kind: RowKind, key: bytes) -> bytes | None:
        return self.disk.rows.get((kind, key))

    def record(self, changes: Sequence[Change], *, large: bool = False, told: Told | None = None) -> int:
        self._number += 1
        self._given.append((changes, told))
        return self._number

    def wait(self, number: int) -> None:
        self.commit()
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def commit(self) -> None:
        """Everything that was given, in order; refused when a later run has begun, or after a failure."""
        given, self._given = self._given, []
        for changes, told in given:
            if self.failure is None and self.disk.belongs_to(self.epoch):
                self.disk.apply(changes)
            if told is not None:
                told()

    def fail(self) -> None:
        """The disk fails."""
        if self.failure is None:
            self.failure = StorageError("E602", "the disk failed to store the journal")
            self._failed(self.failure)

    @property
    def has_news(self) -> bool:
        return bool(self._given)


class Slots:
    """Calls in flight of one host."""

    def __init__(self) -> None:
        self.taken: dict[int, InFlight] = {}
        self._number = 0
        self._alone = False

    def enter(self, call: InFlight, *, alone: bool = False) -> int | None:
        if self._alone or (alone and self.taken):
            return None
        self._alone = alone
        self._number += 1
        self.taken[self._number] = call
        return self._number

    def leave(self, slot: int) -> None:
        self.taken.pop(slot, None)
        self._alone = False


class Inline:
    """Blobs: there are none."""

    def stored(self, value: bytes) -> bytes:
        return value

    def loaded(self, stored: bytes) -> bytes:
        return stored


class Directory(Durability):
    """The job directory of one run."""

    def __init__(self, disk: Disk, failed: Callable[[SageError], None]) -> None:
        self.journal = Journal(disk, failed)
        self._progress = {key.decode(): progress_of(value) for key, value in disk.each(RowKind.POSITION)}
        recorder: Any = self.journal
        self.checkpoints = Checkpoints(recorder, lambda: None, failed, bill=list, first=self.journal.epoch << 40)
        self._applied: dict[str, set[str]] = {}
        for step, partition, last, key, rids in applied_of(disk.each(RowKind.APPLIED)):
            self.checkpoints.know(partition, last, key)
            self._applied.setdefault(step, set()).update(rids)

    def results_with(self, slots: Slots) -> Results:
        """The step journal as one host has it."""
        known = {key for key, _ in self.journal.disk.each(RowKind.RESULT)}
        parts: Any = {"rows": self.journal, "blobs": Inline(), "recorder": self.journal, "slots": slots}
        deaths = {key: int(value.split(b"\n")[0]) for key, value in self.journal.disk.each(RowKind.DEATHS)}
        return StepJournal(PLAN, "1", known=known, deaths=deaths, job="job", **parts)

    def count_deaths(self, calls: Sequence[InFlight]) -> None:
        """These calls were in flight when their process died."""
        rows: Any = self.journal
        self.journal.disk.apply(list(died(rows, calls).values()))

    def cut_from(self, cut: Callable[[], Cut]) -> None:
        self.checkpoints._cut = cut

    def begin_again(self, lost: Collection[int]) -> None:
        self.checkpoints.begin_again()
        self.journal.wait(self.journal.record([]))

    def takes_stock_of(self, plan: StepPlan) -> bool:
        return True

    def enlist(self, stock: Kept) -> None:
        self.checkpoints.enlist(stock.keeper)

    def progress(self, partition: str) -> Progress:
        return self._progress.get(partition, Progress())

    def partition(self, partition: str, *, replayable: bool) -> str:
        return partition

    def applied(self, step: str) -> set[str]:
        return self._applied.get(step, set())

    def output(self, step: str) -> Any:
        stored = self.journal.get(RowKind.OUTPUT, step.encode())
        return None if stored is None else codec.decode(stored)

    def state(self, step: str) -> Sequence[tuple[Any, Any]]:
        some = self.journal.disk.each(RowKind.STATE)
        return [(key, value) for key, value in (codec.decode(stored) for _, stored in some)]

    def collected(self, step: str) -> list[Any]:
        return []

    def branch(self) -> Branch | None:
        return None

    def results(self, plan: StepPlan) -> Results | None:
        return None

    def close(self) -> None:
        """Nothing is open."""

    @property
    def committing(self) -> bool:
        return False

    @property
    def job(self) -> str:
        return "job"
