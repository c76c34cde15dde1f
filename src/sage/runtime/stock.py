"""What a stage has taken up for good: kept between two checkpoints, and known from earlier runs of the job."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sage.record import Batch, Lineage
from sage.runtime.durable import Durability, Keeper


class Stock:
    """Of one stage of a run with a job directory. Hold `lock` while taking up and settling records: a checkpoint
    then sees both, or neither."""

    def __init__(self, durability: Durability, keeper: Keeper) -> None:
        self.lock = threading.Lock()
        self._applied = durability.applied(keeper.plan.name)
        self._lineage: list[Lineage] = []
        durability.enlist(keeper)

    def split(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """The records of `batch` that are new, perhaps none; and those that an earlier run has taken up, or None."""
        if not self._applied:
            return batch, None
        rids = list(batch.rids)
        mask = [rid not in self._applied for rid in rids]
        self._applied.difference_update(rids)
        if all(mask):
            return batch, None
        return batch.select(mask), batch.select([not new for new in mask])

    def add(self, lineage: Sequence[Lineage]) -> None:
        """These records are taken up."""
        self._lineage += lineage

    def take(self) -> list[Lineage]:
        """What was added since this was last asked."""
        taken, self._lineage = self._lineage, []
        return taken
