"""What a stage has taken up for good: kept between two checkpoints, and known from earlier runs and attempts."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from sage.record import Batch, Lineage
from sage.runtime.control import Aborted
from sage.runtime.durable import Durability, Keeper


class Stock:
    """Of one stage of a run that may go on or begin again. Be inside `taking` while taking up and settling records: who
    looks from outside then sees both, or neither."""

    def __init__(self, durability: Durability, keeper: Keeper, instance: int = 0) -> None:
        self.keeper = keeper
        self.instance = instance
        self._lock = threading.Lock()
        self._applied = durability.applied(keeper.plan.name)
        self._lineage: list[Lineage] = []
        self._keeps_open = durability.begins_again
        self._open: list[Lineage] = []
        """What was taken up of stretches that are not known to be finished."""
        self._finished: set[int] = set()
        self._released = False
        durability.enlist(self)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Raises `Aborted` if the run has begun again without this stage."""
        with self._lock:
            if self._released:
                raise Aborted
            yield

    def split(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """The records of `batch` that are new, perhaps none; and those that were taken up before, or None."""
        if not self._applied:
            return batch, None
        rids = list(batch.rids)
        mask = [rid not in self._applied for rid in rids]
        self._applied.difference_update(rids)
        if all(mask):
            return batch, None
        known = batch.select([not new for new in mask])
        self._keep_open(known.lineage)
        return batch.select(mask), known

    def add(self, lineage: Sequence[Lineage]) -> None:
        """These records are taken up."""
        self._lineage += lineage
        self._keep_open(lineage)

    @contextmanager
    def taken(self) -> Iterator[list[Lineage]]:
        """While inside, nothing is taken up; gives what was added since this was last asked."""
        with self._lock:
            taken, self._lineage = self._lineage, []
            yield taken

    def forget(self, finished: Collection[int]) -> None:
        """The stretches of these tickets do not come again. Waits for nobody who is taking; by one thread at a time."""
        self._finished.update(finished)
        if self._lock.acquire(blocking=False):
            self._open = [part for part in self._open if part.ticket.number not in self._finished]
            self._finished.clear()
            self._lock.release()

    def release(self, timeout_s: float) -> bool:
        """Nothing is taken up from here on; False if somebody is still at it."""
        if not self._lock.acquire(timeout=timeout_s):
            return False
        self._released = True
        self._lock.release()
        return True

    def rids(self) -> set[str]:
        """Those that were taken up and may come again."""
        return self._applied.union(*(part.rids() for part in self._open))

    def _keep_open(self, lineage: Sequence[Lineage]) -> None:
        if self._keeps_open:
            self._open += lineage
