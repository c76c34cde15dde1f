"""Time as one protocol, so that anything that waits can run on a virtual clock.

Intervals, deadlines and leases use `monotonic`; `wall` appears in logs and file names only.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What SAGE asks of time. Both in seconds, as floats."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


SYSTEM_CLOCK: Clock = SystemClock()
