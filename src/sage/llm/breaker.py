"""When an endpoint may be asked: not while it asked us to wait, carefully after it failed. Pure: no I/O, no clock."""

from __future__ import annotations

import math

FAILURES = 5
"""So many in a row open the breaker."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
LONGEST_PARK_S = 300.0


class Breaker:
    """Of one endpoint. Closed, it lets every request through; open, none until a pause is over; then one at a time, as
    a probe, until one succeeds. Each pause is twice as long as the one before, at most 30 s.

    A park (429, 503) is no failure, but closes the way all the same: for as long as the endpoint says, at most 300 s,
    or for such a pause where it says nothing. An endpoint that accepts no connection opens it at once; the first sign
    of an answer closes it again.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pauses = 0
        self._until = self._parked_until = -math.inf
        self._probing = self._away = False

    @property
    def healthy(self) -> bool:
        """False from the failure that opened it to the next success."""
        return self._failures < FAILURES

    def opens_at(self, now: float) -> float:
        """From when on a request may be sent: `now` if one may be sent at once, infinity while a probe is out."""
        if not self.healthy and self._probing:
            return math.inf
        return max(now, self._until, self._parked_until)

    def sent(self) -> None:
        """A request goes out; the caller has asked `opens_at`."""
        self._probing = not self.healthy

    def succeeded(self) -> None:
        self._failures = self._pauses = 0
        self._until = -math.inf
        self._probing = self._away = False

    def answered(self) -> None:
        """An answer begins."""
        if self._away:
            self.succeeded()

    def failed(self, now: float) -> None:
        """The endpoint is at fault: not reached, no answer in time, 5xx, nonsense."""
        self._failures += 1
        self._probing = False
        if not self.healthy and self._until <= now:  # what was in flight when it opened makes no pause of its own
            self._until = now + self._pause_s()

    def away(self, now: float) -> None:
        """Nothing accepts connections there."""
        self._away = True
        self._failures = max(self._failures, FAILURES - 1)
        self.failed(now)

    def parked(self, now: float, retry_after_s: float | None) -> None:
        """It asks to wait. Several requests that hear so at the same time make one pause."""
        self._probing = False
        if retry_after_s:  # 0 is no invitation to ask without end
            self._parked_until = max(self._parked_until, now + min(retry_after_s, LONGEST_PARK_S))
        elif self._parked_until <= now:
            self._parked_until = now + self._pause_s()

    def unknown(self) -> None:
        """It ended without saying anything about the endpoint: cancelled, or the prompt was at fault."""
        self._probing = False

    def _pause_s(self) -> float:
        self._pauses += 1
        pause_s: float = FIRST_PAUSE_S * 2 ** min(self._pauses - 1, 10)
        return min(LONGEST_PAUSE_S, pause_s)
