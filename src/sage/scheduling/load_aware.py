"""By load: the least loaded node or replica, or the fullest that still has room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sage.scheduling.fit import best_fit, slots_after
from sage.scheduling.scheduler import Decision, Scheduler, by_arrival, lowest, register
from sage.scheduling.view import Cluster, Node, Replica, Task, Work


@register
class LoadAwareSpread(Scheduler):
    """Law: a task goes where the fewest are for each slot; a piece of work where the fewest would be before it.

    Where it would start at once all are equal; among equals, it goes where fewest ever went.
    """

    name: ClassVar[str] = "load_aware_spread"

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        return best_fit(task, cluster, lambda node: slots_after(task, node), "the least loaded")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [max(0, r.running + r.queued + 1 - r.slots) / r.slots for r in replicas]
        least = min(range(len(replicas)), key=lambda index: (scores[index], replicas[index].given))
        return Decision(least, scores, "would wait least")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        return by_arrival(waiting)


@register
class LoadAwarePack(Scheduler):
    """Law: no node or replica gets anything while one that is in use has room for it. Leaves whole nodes to others."""

    name: ClassVar[str] = "load_aware_pack"

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        def score(node: Node) -> float:
            full = slots_after(task, node)
            return 1 - full if full <= 1 else full  # those with room come first, the fullest of them first of all

        return best_fit(task, cluster, score, "the fullest with room")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [1 - replica.load if replica.is_free else 1 + replica.load for replica in replicas]
        return Decision(lowest(scores), scores, "the fullest with room")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        return by_arrival(waiting)
