"""What happens next, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Agenda:
    """Events in order of time; among those of one moment, in the order in which they were entered.

    It is a clock too: `now` is the time of the event under way.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.passed = 0
        """Events that have happened."""
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._entered = 0

    def at(self, at_s: float, event: Callable[[Any], None], argument: Any) -> None:
        """Let `event(argument)` happen at `at_s`, which is not past."""
        self._entered += 1
        heapq.heappush(self._heap, (at_s, self._entered, event, argument))

    def run(self, settle: Callable[[], None]) -> None:
        """Until nothing is left to happen. `settle` is called when everything of one moment has happened."""
        heap = self._heap
        pop = heapq.heappop
        while heap:
            self.now, _, event, argument = pop(heap)
            self.passed += 1
            event(argument)
            if not heap or heap[0][0] > self.now:
                settle()
