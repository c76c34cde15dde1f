"""The default: work stays with nobody until it can start, and goes where it is expected to end first."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import ClassVar

from sage.scheduling.fit import best_fit, slots_after
from sage.scheduling.priority import AGEING_S, urgency
from sage.scheduling.scheduler import Decision, Scheduler, register
from sage.scheduling.view import Cluster, Node, Replica, Task, Work

AHEAD_S = 0.04
"""Work, in seconds of its replica, that a busy one is given ahead, so that no slot waits for a message to come: of many
hosts each tells every 20 ms what it has done, and messages take their time on a busy machine."""
NEXT_S = 0.02
"""A busy replica has one piece ahead, however long its work takes, if one of its slots is expected to be free so soon:
until the message of that had come, the slot would be empty."""
NEAR = 0.05
"""What the neighbourhood of the tasks it exchanges records with is worth, in shares of a node."""
ALIKE = 0.05
"""Speeds, and expected ends, that differ by a smaller part are the same: no measurement is truer than that."""


@register
class Adaptive(Scheduler):
    """Late binding by expected time to finish.

    Law: a free slot gets work at once, the quickest node's first, with one exception: it stays empty while quicker
    replicas would have finished *everything* that waits before this one had finished this piece. So no node idles
    while there is work for it, each gets work in proportion to its measured speed, and no run waits at its end for a
    slow one. Among those that would end at about the same time, the one takes it that has had the fewest.

    Between waiting pieces: the most urgent band first (ages as `Priority`), then the job that has had least for its
    weight, then arrival. (Join-idle-queue: Lu et al. 2011; earliest finish time: Topcuoglu et al. 2002; least attained
    service: Nuyens and Wierman 2008.)
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, ageing_s: float = AGEING_S) -> None:
        self.ageing_s = ageing_s

    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        def score(node: Node) -> float:
            ahead = node.backlog_s / (node.slots * node.speed)
            near = NEAR * (node.name in task.near)
            return slots_after(task, node) / node.speed + ahead - near

        return best_fit(task, cluster, score, "would be done first with what it has")

    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        scores = [_finish_s(work, replica) for replica in replicas]
        soonest_s = min(scores)
        if soonest_s == inf:
            return Decision(None, scores, "nobody is free")
        alike_s = soonest_s * (1 + ALIKE)
        best = min(
            (index for index, score in enumerate(scores) if score <= alike_s), key=lambda index: replicas[index].given
        )
        quick = replicas[best].speed * (1 + ALIKE)
        quicker = [replica for replica in replicas if replica.speed > quick]
        if quicker:
            rate = sum(replica.slots * replica.speed for replica in quicker)
            all_s = (waiting_s + sum(replica.backlog_s for replica in quicker)) / rate
            last_s = max(all_s, work.cost_s / max(replica.speed for replica in quicker))
            if last_s < scores[best]:
                return Decision(None, scores, f"quicker ones will have done all that waits in {last_s:.3g} s")
        return Decision(best, scores, "would be done first")

    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        bands = [urgency(work, self.ageing_s) // self.ageing_s for work in waiting]
        first = min(range(len(waiting)), key=lambda index: (bands[index], waiting[index].attained_s))
        return Decision(first, bands, "the most urgent, of the job that has had least")


def _finish_s(work: Work, replica: Replica) -> float:
    """Seconds until it would be done; inf where it would only wait."""
    if replica.is_free:
        return work.cost_s / replica.speed
    ahead_s = replica.backlog_s / (replica.slots * replica.speed)
    known = ahead_s > 0  # or nobody knows yet what it costs
    soon = not replica.queued and ahead_s < NEXT_S * replica.running
    if (ahead_s < AHEAD_S or soon) and (known or replica.queued < replica.slots):
        return ahead_s + work.cost_s / replica.speed
    return inf
