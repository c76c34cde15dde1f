"""First come, first served, by whoever is free."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import ClassVar

from sage.scheduling.fit import best_fit, slots_after
from sage.scheduling.scheduler import Decision, Scheduler, by_arrival, lowest, register
from sage.scheduling.view import Cluster, Replica, Task, Work


@register
class Fifo(Scheduler):
    """Law: work starts in order of arrival, on the first replica that has a free slot; while none has, it waits."""

    name: ClassVar[str] = "fifo"

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        return best_fit(task, cluster, lambda node: max(0.0, slots_after(task, node) - 1), "the first with a free slot")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [0.0 if replica.is_free else inf for replica in replicas]
        first = lowest(scores)
        if scores[first] == inf:
            return Decision(None, scores, "nobody is free")
        return Decision(first, scores, "the first that is free")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        return by_arrival(waiting)
