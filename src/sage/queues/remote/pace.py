"""How far ahead of its use something is asked for, so that a round trip is never waited for, and no more than that."""

from __future__ import annotations

_SPARE_S = 0.002
_GROWTH = 2.0
_SOME = 8  # fewer are no stream
_PAUSE_S = 0.1


class Pace:
    """Items per second of late, and what to ask for because of it. Not locked."""

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self._most = most
        self._count = 0
        self._at = 0.0
        self.rate = 0.0
        """Items per second, 0 where there is no stream of them."""
        self.ahead = least
        """How many to have at hand or on their way."""

    def note(self, count: int, now: float, round_trip_s: float) -> None:
        """`count` items were used in all, up to `now`. Growth is at most twofold in the time of two round trips."""
        horizon_s = 2 * round_trip_s + _SPARE_S
        past_s = now - self._at
        used = count - self._count
        if past_s < horizon_s / 4 or (used < _SOME and past_s < _PAUSE_S):
            return
        self.rate = used / past_s if used >= _SOME else 0.0
        self.ahead = max(self.least, min(int(_GROWTH * horizon_s * self.rate), self._most))
        self._count, self._at = count, now
