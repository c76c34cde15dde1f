"""What a limiter measures: requests in flight and what they brought, over a stretch of time. Pure: no clock, no I/O."""

from __future__ import annotations

import math

from sage.scheduling.elasticity import Point


class Round:
    """From its last `clear` on."""

    def __init__(self) -> None:
        self._now = -math.inf
        self.clear(self._now)

    def clear(self, now: float) -> None:
        """Begin anew."""
        self._began = now
        self._area = self._waited = 0.0
        self.work = 0.0
        """Output tokens."""
        self.prompts = 0.0
        """Prompt tokens of what was begun to be answered."""
        self.ends = 0
        """Requests that were answered to their end."""

    def passed(self, now: float, in_flight: int, unanswered: int) -> None:
        """Time went by, with so many requests in flight, and so many of them without a first token."""
        if math.isfinite(self._now):
            self._area += in_flight * (now - self._now)
            self._waited += unanswered * (now - self._now)
        else:
            self._began = now
        self._now = now

    @property
    def has_something(self) -> bool:
        """It has lasted, with requests in flight, and brought something."""
        return self._now > self._began and self._area > 0 and self.work > 0

    @property
    def waiting_share(self) -> float:
        """Of the requests in flight, those without a first token."""
        return self._waited / self._area

    def tokens_per_stream(self) -> float:
        """So many of each answer have come."""
        duration = self._now - self._began
        if duration <= 0:
            return 0.0
        return self.work / max(0.5, (self._area - self._waited) / duration)

    def expected(self, last: Point) -> float:
        """Output tokens, had they come as in the round that measured `last`."""
        return math.exp(last.log_throughput) * (self._now - self._began)

    def point(self) -> Point:
        """So far; of a round that `has_something`."""
        duration = self._now - self._began
        return Point(math.log(self._area / duration), math.log(self.work / duration), self.prompts / self.work)
