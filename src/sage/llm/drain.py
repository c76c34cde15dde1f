"""How quickly a queue empties. Pure: no I/O, no clock, times come in as arguments."""

from __future__ import annotations

TURNOVERS, EVIDENCE = 8, 6
"""What is remembered, and what is needed to say anything: so many requests for each place. While an endpoint's limit is
still growing, that is never reached: the wait would be foretold far too long."""


class Drain:
    """How many tokens leave a queue for each second of a place at an endpoint.

    Measured only while somebody waits: an idle queue is not a slow one. By place, because the limits of endpoints grow
    quickly at first: what eight places did in the last second says nothing about the next one with sixteen.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._place_seconds = 0.0
        self._left = 0
        self._now = 0.0

    def passed(self, now: float, places: int) -> None:
        """Time went by; somebody waited for `places` all that while (0: nobody waited)."""
        self._place_seconds += places * (now - self._now) if places else 0.0
        self._now = now

    def left(self, tokens: float, places: int) -> None:
        """A request of so many tokens left the queue in which others waited."""
        kept = 1 - 1 / (TURNOVERS * max(1, places))
        self._tokens = self._tokens * kept + tokens
        self._place_seconds *= kept
        self._left += 1

    def rate(self, places: int) -> float | None:
        """Tokens a second with so many places; None while too little was seen."""
        if self._left < EVIDENCE * places or not self._place_seconds:
            return None
        return places * self._tokens / self._place_seconds
