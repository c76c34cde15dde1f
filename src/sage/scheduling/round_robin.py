"""Each in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sage.scheduling.fit import best_fit
from sage.scheduling.scheduler import Decision, Scheduler, by_arrival, register
from sage.scheduling.view import Cluster, Replica, Task, Work


@register
class RoundRobin(Scheduler):
    """Law: of n pieces of work each replica gets n / replicas, rounded up or down, however quick or busy it is."""

    name: ClassVar[str] = "round_robin"
    rebinds: ClassVar[bool] = False

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        count = max(1, len(cluster.nodes))
        turn = cluster.placed % count
        places = {node.name: (index - turn) % count for index, node in enumerate(cluster.nodes)}
        return best_fit(task, cluster, lambda node: float(places[node.name]), "its turn")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [float(replica.given) for replica in replicas]
        return Decision(min(range(len(replicas)), key=scores.__getitem__), scores, "its turn")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        return by_arrival(waiting)
