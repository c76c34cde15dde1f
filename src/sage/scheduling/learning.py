"""What a record costs and how quick a node is, learned from what was observed. Nothing here reads a clock."""

from __future__ import annotations

MEMORY = 0.1
"""How much the newest observation counts."""
REMEMBERED = 100.0
"""Observations of a node's pace that count; and how many of each other node make one that had none unknown again."""
DOUBT = 2.0
"""In standard errors."""


class Costs:
    """Reference seconds for each unit of weight, by step. The weight of a record is 1, or what its step says of it:
    tokens of a prompt, bytes of a document. So light, medium and heavy records of one step have their own costs."""

    def __init__(self) -> None:
        self._per_weight: dict[str, float] = {}

    def of(self, step: str, weight: float = 1.0) -> float:
        """The estimate; 0 before anything was observed."""
        return self._per_weight.get(step, 0.0) * weight

    def observe(self, step: str, weight: float, seconds: float, speed: float = 1.0) -> None:
        """Work of `weight` took `seconds` on a node of `speed`."""
        if weight > 0:
            _learn(self._per_weight, step, seconds * speed / weight)


class Speeds:
    """How quick each node is beside the others: 1 is the mean of all that were observed.

    Records of one step differ, so what was measured is uncertain. A node counts as quicker or slower only by what its
    measurements say beyond doubt (the positive part of a James-Stein estimate): otherwise luck would look like speed,
    and work would wait for nodes that are no quicker than those that idle. Of one or two measurements nobody can say
    how far they lie apart, so what all nodes show of that counts where it is more.

    What was measured of a node that gets no work any more is forgotten, the sooner the more the others do. Otherwise
    one that looked slow while it was crowded would never get any, and never be seen to be as quick as the others.
    """

    def __init__(self) -> None:
        self._pace: dict[str, Pace] = {}
        self._observed = 0
        self._spread_squared = 0.0

    def of(self, node: str) -> float:
        """1 before anything was observed."""
        own = self._pace.get(node)
        if own is None:
            return 1.0
        speed = own.speed * len(self._pace) / sum(pace.speed for pace in self._pace.values())
        apart = (speed - 1.0) ** 2
        doubt = (DOUBT * speed) ** 2 * max(own.spread_squared, self._spread_squared) / own.count
        return 1.0 if apart <= doubt else 1.0 + (speed - 1.0) * (1.0 - doubt / apart) * self._known(own)

    def observe(self, node: str, expected_s: float, seconds: float) -> None:
        """Work that was expected to take `expected_s` on a node of speed 1 took `seconds` there."""
        if expected_s > 0 and seconds > 0:
            pace, ratio = self._pace.setdefault(node, Pace()), seconds / expected_s
            self._observed += 1
            if pace.count:
                apart = (ratio * pace.speed - 1.0) ** 2 / (1.0 + 1.0 / pace.count)
                self._spread_squared += (apart - self._spread_squared) / min(self._observed, REMEMBERED)
            pace.observe(ratio, self._known(pace))
            pace.last = self._observed

    def _known(self, pace: Pace) -> float:
        """How much of what was measured of a node still counts."""
        since = (self._observed - pace.last) / len(self._pace)
        return max(0.0, 1.0 - since / REMEMBERED)


class Pace:
    """Seconds for each expected second: their mean and their spread, the last ones counting most."""

    __slots__ = ("_mean", "_square", "count", "last", "speed", "spread_squared")

    def __init__(self) -> None:
        self.count = self._mean = self._square = 0.0
        self.speed = 1.0
        self.spread_squared = 0.0
        """The square of their standard deviation, as a part of the mean."""
        self.last = 0
        """The number of its last observation, among those of all nodes."""

    def observe(self, ratio: float, known: float) -> None:
        """`known`: how much of the earlier ones still counts."""
        self.count = min(self.count * known + 1.0, REMEMBERED)
        share = 1.0 / self.count
        self._mean += share * (ratio - self._mean)
        self._square += share * (ratio * ratio - self._square)
        self.speed = 1.0 / self._mean
        self.spread_squared = max(0.0, self._square / self._mean**2 - 1.0)


def _learn(known: dict[str, float], key: str, value: float) -> None:
    old = known.get(key)
    known[key] = value if old is None else old + MEMORY * (value - old)
