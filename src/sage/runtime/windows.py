"""How many calls of an async step may be in flight: a number, or what feedback says. Used on the event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from sage.clock import Clock
from sage.errors import EndpointError
from sage.flow.admission import WATCH
from sage.flow.graph import StepPlan
from sage.scheduling.limiter import AdaptiveLimit

AHEAD = 8
"""Calls that wait for their turn, so that one is there when a place becomes free. More (a few more can come to wait)
would gain nothing: records wait in the inbox, where they cost nothing."""


class Attempt(Protocol):
    """One attempt of a call: begins when it is made, and is ended exactly once."""

    def timer(self, timeout_s: float | None) -> asyncio.Timeout:
        """The one timer of the attempt."""

    def end(self, error: BaseException | None) -> None: ...


class Window(Protocol):
    """How many calls a stage may have in flight, those between two attempts included."""

    @property
    def slots(self) -> int:
        """About so many at this moment; at least 1."""

    @property
    def turns(self) -> int:
        """Calls that wait for their turn."""

    @property
    def turned_s(self) -> float:
        """How long calls have waited for it up to now, added up."""

    def has_room(self, serving: int) -> bool:
        """`serving` are in flight: may one more be?"""

    def attempt(self) -> Attempt | None:
        """An attempt is made; None where nobody watches."""


class Fixed:
    """As many as the step says."""

    turns = 0
    turned_s = 0.0

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def has_room(self, serving: int) -> bool:
        return serving < self.slots

    def attempt(self) -> None:
        return None


class Found:
    """As many as the calls do best with, by how many of them end in what time. An endpoint that fails or asks to wait
    has too many of them."""

    turns = 0
    turned_s = 0.0

    def __init__(self, most: int, clock: Clock) -> None:
        self._limiter = AdaptiveLimit(most=most, streamed=False)
        self._clock = clock

    @property
    def slots(self) -> int:
        return self._limiter.limit

    def has_room(self, serving: int) -> bool:
        return serving < self._limiter.limit

    def attempt(self) -> Attempt:
        return _Measured(self._limiter, self._clock)


class _Measured:
    def __init__(self, limiter: AdaptiveLimit, clock: Clock) -> None:
        self._limiter = limiter
        self._clock = clock
        self._flight = limiter.begin(clock.monotonic())

    def timer(self, timeout_s: float | None) -> asyncio.Timeout:
        return asyncio.timeout(timeout_s)

    def end(self, error: BaseException | None) -> None:
        now = self._clock.monotonic()
        if error is None:
            self._limiter.progress(self._flight, now, 1.0)
        self._limiter.end(self._flight, now, refused=isinstance(error, EndpointError))


class Admitted:
    """For an operator with an `Admission`: its calls wait for turns, which are counted here. Up to `slots` calls, if
    the step says a number; else as many as are let in and `AHEAD` that wait."""

    def __init__(self, plan: StepPlan, on_room: Callable[[], None]) -> None:
        self._most = plan.concurrency
        self._adaptive = plan.adaptive
        self._on_room = on_room
        self._at_work = 0
        self.turns = 0
        self.turned_s = 0.0

    @property
    def slots(self) -> int:
        return max(1, self._at_work + self.turns) if self._adaptive else self._most

    def has_room(self, serving: int) -> bool:
        if not self._adaptive:
            return serving < self._most
        between = serving - self.turns - self._at_work
        return self.turns < AHEAD and between < self._at_work + AHEAD and serving < self._most

    def attempt(self) -> Attempt:
        return _Turn(self)

    def count(self, turns: int, at_work: int) -> None:
        """So many more wait, and are at work."""
        self.turns += turns
        self._at_work += at_work
        if turns < 0:
            self._on_room()


class _Turn:
    """The watch of one attempt."""

    def __init__(self, window: Admitted) -> None:
        self._window = window
        self._waits = True
        self._over = False
        self._since_s = asyncio.get_running_loop().time()
        self._timeout_s: float | None = None
        self._timer = asyncio.timeout(None)
        window.count(turns=1, at_work=0)
        WATCH.set(self)

    def timer(self, timeout_s: float | None) -> asyncio.Timeout:
        self._timeout_s = timeout_s
        return self._timer

    def waits(self) -> None:
        if not self._waits and not self._over:
            self._waits = True
            self._since_s = asyncio.get_running_loop().time()
            self._window.count(turns=1, at_work=-1)
            self._set_timer(None)

    def goes(self) -> None:
        if self._waits and not self._over:
            self._waits = False
            now_s = asyncio.get_running_loop().time()
            self._window.turned_s += now_s - self._since_s
            self._window.count(turns=-1, at_work=1)
            if self._timeout_s is not None:
                self._set_timer(now_s + self._timeout_s)

    def end(self, error: BaseException | None) -> None:
        self._over = True
        self._window.count(turns=-self._waits, at_work=self._waits - 1)

    def _set_timer(self, at: float | None) -> None:
        if not self._timer.expired():
            self._timer.reschedule(at)
