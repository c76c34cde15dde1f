"""What a process has at hand that took the reading end of a ring on loan."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from sage.queues.ring_layout import GET_WORD


class Hand:
    """Items, or lists of as many each, that are still in the ring. A step takes one, in one operation of C objects."""

    def __init__(
        self, values: Iterable[Any] = (), words: Iterable[int] = (), memory: Any = None, each: int = 1
    ) -> None:
        self._left = iter(values)
        stores: Iterator[None] = map(operator.setitem, repeat(memory), repeat(GET_WORD), words)
        self.steps: Iterator[tuple[Any, None]] = zip(self._left, stores, strict=False)
        """Each gives a value, and stores the word that says so."""
        self.each = each

    @property
    def left(self) -> int:
        """Items."""
        return operator.length_hint(self._left) * self.each

    def put_back(self) -> int:
        """Have no more steps; how many items stay in the ring by that."""
        return sum(self.each for _ in self._left)
