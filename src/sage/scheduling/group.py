"""Candidates for work, as a scheduler sees them: kept up by what was given to them and what they have done.

Whoever gives work away has one: the router of an edge in a real run, the dispatcher of a simulated cluster. What work
costs and how quick each candidate is, nobody says: it is learned. Times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from sage.scheduling.learning import Costs, Speeds
from sage.scheduling.view import Replica

STEP = "step"


class Group:
    """The instances of one step, or the nodes of a cluster. The weight of a piece of work is what its cost is learned
    for a unit of: its records, or what its step says of a record."""

    def __init__(self, names: Sequence[str], slots: Sequence[int]) -> None:
        self.views = [Replica(name, count) for name, count in zip(names, slots, strict=True)]
        """As they are, but for the work that is under way: of that, all counts as left."""
        self._costs = Costs()
        self._speeds = Speeds()
        self._outstanding = [0] * len(self.views)
        self._weight = [0.0] * len(self.views)
        self._since_s = [0.0] * len(self.views)
        self._turn = 0

    @property
    def given(self) -> list[int]:
        """Pieces of work that each ever got."""
        return [view.given for view in self.views]

    @property
    def outstanding(self) -> Sequence[int]:
        """Pieces that each has now."""
        return self._outstanding

    def cost_s(self, weight: float = 1.0) -> float:
        """What work of `weight` takes, in reference seconds; 0 before any was done."""
        return self._costs.of(STEP, weight)

    def give(self, index: int, weight: float, now_s: float = 0.0) -> None:
        """It is on its way there."""
        if not self._outstanding[index]:
            self._since_s[index] = now_s
        self._outstanding[index] += 1
        self._weight[index] += weight
        self._look(index, 1)

    def withdraw(self, index: int, weight: float) -> None:
        """What was given did not leave."""
        self._outstanding[index] -= 1
        self._weight[index] -= weight
        self._look(index, -1)

    def take_back(self, index: int, weight: float, took_s: float, now_s: float = 0.0, pieces: int = 1) -> None:
        """It was done there, in `took_s`."""
        name = self.views[index].node
        self._speeds.observe(name, self.cost_s(weight), took_s)
        self._costs.observe(STEP, weight, took_s, self._speeds.of(name))
        self._since_s[index] = now_s
        self._outstanding[index] -= pieces
        self._weight[index] -= weight
        self._look(index, 0)
        self._turn = (self._turn + 1) % len(self.views)  # what is known of one that gets nothing ages
        self._look(self._turn, 0)

    def seen(self, now_s: float) -> list[Replica]:
        """As they are `now_s`: what has been under way for a while is nearly done. What should have been done long ago
        is not: it is as far from its end as it is late, as heavy work is."""
        return [self._seen(index, now_s) if view.running else view for index, view in enumerate(self.views)]

    def _seen(self, index: int, now_s: float) -> Replica:
        view = self.views[index]
        done_s = (now_s - self._since_s[index]) * view.running * view.speed
        under_way_s = view.backlog_s * view.running / (view.running + view.queued)
        left_s = view.backlog_s - under_way_s + abs(under_way_s - done_s)
        return Replica(view.node, view.slots, view.running, view.queued, left_s, view.speed, view.given)

    def _look(self, index: int, given: int) -> None:
        old = self.views[index]
        outstanding = self._outstanding[index]
        running = min(outstanding, old.slots)
        backlog_s = self.cost_s(self._weight[index])
        self.views[index] = Replica(
            old.node, old.slots, running, outstanding - running, backlog_s, self._speeds.of(old.node), old.given + given
        )
