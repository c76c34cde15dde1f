"""What outlives the attempts of a run: when a host is lost the whole graph starts again, and goes on where it stood.

Sinks, reductions and lists in memory are at home, and home lives. So the next attempt gets what they hold as it is,
with the ids of unfinished records that they have taken up; and sources begin behind what is finished. What a source
brought that cannot be read again is kept until it is finished. A job directory, if there is one, goes on beneath.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from sage.errors import HostError
from sage.flow.graph import StepPlan
from sage.flow.sink import Writer
from sage.flow.source import Reader
from sage.runtime.durable import Branch, Cut, Durability, FarBranch, Kept, Progress, Question, Results
from sage.runtime.ledger import DurableBook
from sage.runtime.retained import Retained

if TYPE_CHECKING:  # SQLite, which other runs do not need
    from sage.runtime.durability.directory import JobDirectory

RELEASE_S = 10.0
"""How long a sink may take to come back from a write, before the run is given up."""


class Handover(Durability):
    """Of one run with several hosts; `directory` is its job directory, if it has one.

    `attach` is due before each attempt, and `release` after each that is not the last. `close` is the directory's own.
    """

    def __init__(self, directory: JobDirectory | None) -> None:
        self._directory = directory
        self._book: DurableBook
        self._lock = threading.Lock()
        self._stocks: list[Kept] = []
        self._held: dict[tuple[str, int], Any] = {}
        self._applied: dict[str, set[str]] = {}
        self._retained: dict[str, Retained] = {}

    def attach(self, book: DurableBook) -> None:
        """The ledger of the attempt that begins."""
        self._book = book

    def cut(self) -> Cut:
        """What was finished since this was last asked. What was kept for its sake is forgotten."""
        with self._lock:
            cut = self._book.cut()
            for stock in self._stocks:
                stock.forget(cut.finished)
            for partition, progress in cut.partitions.items():
                if partition in self._retained:
                    self._retained[partition].forget(progress)
        return cut

    def release(self, lost: Collection[int]) -> None:
        """The attempt is over, because of processes that are `lost`, and another begins: nobody of it takes anything up
        from here on, however late it wakes.

        Raises `HostError` E813 if a sink does not come back from a write, `StorageError` if the job directory cannot
        keep what there is.
        """
        until = time.monotonic() + RELEASE_S
        for stock in self._stocks:
            if not stock.release(max(0.0, until - time.monotonic())):
                raise _stuck(stock.keeper.plan.name)
        if self._directory is not None:
            self._directory.begin_again(lost)
        self.cut()
        with self._lock:
            taken: dict[str, set[str]] = {}
            for stock in self._stocks:
                step = stock.keeper.plan.name
                self._held[step, stock.instance] = stock.keeper.holding()
                taken.setdefault(step, set()).update(stock.rids())
            self._applied |= taken
            self._stocks.clear()

    def branch(self) -> Branch | None:
        return None if self._directory is None else self._directory.branch()

    def far_branch(self) -> FarBranch | None:
        return None if self._directory is None else self._directory.far_branch()

    def answer(self, question: Question, reply: Callable[[object], None]) -> None:
        assert self._directory is not None
        self._directory.answer(question, reply)

    def orphans(self) -> list[Writer]:
        """Of sinks that no attempt has taken over."""
        return [held for held in self._held.values() if isinstance(held, Writer)]

    def close(self) -> None:
        """Let go of the sources."""
        for retained in self._retained.values():
            retained.close()

    def results(self, plan: StepPlan) -> Results | None:
        return None if self._directory is None else self._directory.results(plan)

    def progress(self, partition: str) -> Progress:
        return self._book.progress(partition)

    def partition(self, partition: str, *, replayable: bool) -> str:
        return partition if self._directory is None else self._directory.partition(partition, replayable=replayable)

    def reader(self, partition: str, opened: Callable[[], Reader]) -> Reader:
        if partition not in self._retained:
            self._retained[partition] = Retained(opened())
        return self._retained[partition].view(self._book.progress(partition))

    def held(self, step: str, instance: int = 0) -> Any:
        return self._held.pop((step, instance), None)

    def takes_stock_of(self, plan: StepPlan) -> bool:
        return True

    def applied(self, step: str) -> set[str]:
        if step in self._applied:
            return set(self._applied[step])
        return set() if self._directory is None else set(self._directory.applied(step))

    def output(self, step: str) -> Any:
        return None if self._directory is None else self._directory.output(step)

    def state(self, step: str) -> Sequence[tuple[Any, Any]]:
        return () if self._directory is None else self._directory.state(step)

    def collected(self, step: str) -> list[Any]:
        return [] if self._directory is None else self._directory.collected(step)

    def enlist(self, stock: Kept) -> None:
        with self._lock:
            self._stocks.append(stock)
        if self._directory is not None and self._directory.takes_stock_of(stock.keeper.plan):
            self._directory.enlist(stock)

    @property
    def begins_again(self) -> bool:
        return True

    @property
    def committing(self) -> bool:
        return self._directory is not None and self._directory.committing

    @property
    def job(self) -> str:
        return "" if self._directory is None else self._directory.job


def _stuck(step: str) -> HostError:
    return HostError(
        "E813", "a host is lost, and the run cannot begin again: a sink does not come back from a write",
        at=f"step {step!r}", try_="whether what it writes to answers",
    )  # fmt: skip
