"""How soon whoever moves records between hosts looks again: at once while few come; else when a few have come together.

Network cards do so with their interrupts, for the same reason: waking somebody for each takes longer than the work.
"""

from __future__ import annotations

SHARE = 0.25
"""The part of the room that may fill up meanwhile."""
SHORTEST_S = 0.0003
"""A shorter rest is none: to sleep and wake takes a third of it."""
_SPAN_S = 0.02
"""Rates are those of spans so long at least."""


class Rhythm:
    """Of one who takes things that come, all that are there at a time. Pure: it is told the time.

    `room` things may come until those who bring them have to wait; nobody rests longer than `most_s`, and nobody rests
    for whom fewer than one thing comes in that time.
    """

    def __init__(self, room: int, most_s: float) -> None:
        self._room = room
        self._most_s = most_s
        self._rate = 0.0
        self._since_s: float | None = None
        self._came = 0
        self._looked_s = 0.0

    def took(self, things: int, now_s: float) -> None:
        """So many were there."""
        self._looked_s = now_s
        if self._since_s is None:
            self._since_s = now_s
            return
        self._came += things
        span_s = now_s - self._since_s
        if span_s >= _SPAN_S:
            self._rate = self._came / span_s
            self._came, self._since_s = 0, now_s

    def rest_s(self, now_s: float) -> float:
        """So long nobody need look; 0 if it should be at once."""
        if self._rate * self._most_s <= 1.0:
            return 0.0
        turn_s = min(self._most_s, SHARE * self._room / self._rate)
        left_s = self._looked_s + turn_s - now_s
        return left_s if left_s > SHORTEST_S else 0.0
