"""What a record costs and how quick a node is, learned from what was observed. Nothing here reads a clock."""

from __future__ import annotations

MEMORY = 0.1
"""How much the newest observation counts."""


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
    """How quick each node is beside the others: 1 is the mean of all that were observed."""

    def __init__(self) -> None:
        self._by_node: dict[str, float] = {}

    def of(self, node: str) -> float:
        """1 before anything was observed."""
        own = self._by_node.get(node)
        return 1.0 if own is None else own * len(self._by_node) / sum(self._by_node.values())

    def observe(self, node: str, expected_s: float, seconds: float) -> None:
        """Work that was expected to take `expected_s` on a node of speed 1 took `seconds` there."""
        if expected_s > 0 and seconds > 0:
            _learn(self._by_node, node, expected_s / seconds)


def _learn(known: dict[str, float], key: str, value: float) -> None:
    old = known.get(key)
    known[key] = value if old is None else old + MEMORY * (value - old)
