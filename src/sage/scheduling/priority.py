"""Bands with ageing."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import ClassVar

from sage.scheduling.fit import best_fit, slots_after
from sage.scheduling.scheduler import Decision, Scheduler, lowest, register
from sage.scheduling.view import Cluster, Replica, Task, Work

AGEING_S = 30.0
"""After how long work of one band is worth as much as new work of the next higher one."""


def urgency(work: Work, ageing_s: float) -> float:
    """The lower, the more urgent: the moment of arrival, put off by `ageing_s` for each band, seen from now.

    So within a band the order is that of arrival, a higher band passes a lower one, and nobody is passed for longer
    than `band * ageing_s` by work that came later: nothing starves, and nothing urgent waits behind what is not.
    """
    return work.band * ageing_s - work.waited_s


@register
class Priority(Scheduler):
    """Law: the most urgent work first (see `urgency`), as soon as a replica is free; the least loaded one takes it."""

    name: ClassVar[str] = "priority"

    def __init__(self, ageing_s: float = AGEING_S) -> None:
        self.ageing_s = ageing_s

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        return best_fit(task, cluster, lambda node: slots_after(task, node), "the least loaded")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [replica.load if replica.is_free else inf for replica in replicas]
        least = lowest(scores)
        if scores[least] == inf:
            return Decision(None, scores, "nobody is free, and what is given away can no longer be passed")
        return Decision(least, scores, "the least loaded that is free")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        scores = [urgency(work, self.ageing_s) for work in waiting]
        return Decision(lowest(scores), scores, "the most urgent")
