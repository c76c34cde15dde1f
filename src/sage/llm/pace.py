"""How many tokens a second come, lately. Pure: no clock, times come in as arguments."""

from __future__ import annotations

import math

WINDOW_S = 5.0


class Pace:
    """A rate in which what came `WINDOW_S` ago counts a third of what comes now."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._began = self._at = -math.inf

    def came(self, now: float, tokens: float) -> None:
        if self._began == -math.inf:
            self._began = self._at = now
        self._tokens = self._tokens * math.exp((self._at - now) / WINDOW_S) + tokens
        self._at = now

    def rate(self, now: float) -> float:
        """Tokens a second; 0 before anything came."""
        if now <= self._began or self._began == -math.inf:
            return 0.0
        seen = 1 - math.exp((self._began - now) / WINDOW_S)
        return self._tokens * math.exp((self._at - now) / WINDOW_S) / (WINDOW_S * seen)
