"""How many requests an endpoint runs without one of them waiting in it. Pure: no clock, times come in as arguments.

The limit of an endpoint is found from its throughput, and may be a few requests too high: they wait in the endpoint,
where priority counts for nothing. While a higher band is there, lower bands therefore stay below a ceiling too: what
ran when requests stood in the endpoint's queue. One that is only seen in passing, between its arrival and the next step
of the endpoint, stands in no queue: several looks in a row have to see somebody. What the endpoint says of itself comes
first (vLLM's ``/metrics``); without it, a request without a first token waits.

A trial of a higher ceiling costs the higher band what it was to be saved from. So it is rare, and rarer after each that
failed; but one that went well is followed by a larger one at once. And where requests wait under a ceiling as they did
without it (short answers: somebody has always just arrived), it is of no use and is dropped for as long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

LOOKS, SURE_LOOKS = 4, 2
"""So many in a row have to say the same; fewer where we saw ourselves that in no moment all requests ran."""
LOOK_S = 1.0
BELIEVED_S = 3.0
"""For so long what the endpoint said of itself counts."""
TOLERATED = 0.03
"""Of the requests there. So few that wait delay the others by this part of an answer's time, on average."""
TRY_S, LONGEST_TRY_S = 60.0, 960.0
GROWTH = 0.03
"""Of the ceiling, for a first trial; doubled each time that it goes well."""
AT_IT = 0.9
"""So much of the ceiling is there: it is what keeps the others out."""


class Look(NamedTuple):
    """Our requests at the endpoint in one `LOOK_S`: how many ran, how many waited in every moment of it, and how many
    were there at most, with those that had just arrived."""

    running: float
    waiting: float
    sure: bool
    there: int

    @property
    def crowded(self) -> bool:
        return self.waiting > TOLERATED * (self.running + self.waiting)


@dataclass(slots=True)
class _Window:
    """What was counted since the last look."""

    there: int = 0
    """The most."""
    running: int = 0
    """The most that had a first token."""
    waiting: float = math.inf
    """The fewest that had none."""
    unknown: float = math.inf
    """The fewest of which one cannot know that they had one."""


class Headroom:
    """Of one endpoint. `ceiling` is infinite where nothing is known, and where it would be of no use."""

    def __init__(self) -> None:
        self.ceiling = math.inf
        self._looks: deque[Look] = deque(maxlen=LOOKS)
        self._window = _Window()
        self._told = 0.0, 0.0
        self._told_at = self._looked_at = self._changed_at = -math.inf
        self._pause_s, self._step = TRY_S, 1.0
        self._trying = False
        self._helps = False
        """Since it was lowered, the queue was seen empty."""

    def told(self, now: float, in_flight: int, running: float, waiting: float) -> None:
        """By the endpoint, of everybody's requests, of which `in_flight` are ours."""
        ours = min(1.0, in_flight / max(1.0, running + waiting))
        self._told, self._told_at = (running * ours, waiting * ours), now

    def counted(self, now: float, in_flight: int, waiting: int, silent: int) -> None:
        """By us, whenever something happened: `waiting` have no first token yet; whether the `silent` ones have one
        cannot be seen, because their answers come whole."""
        window = self._window
        window.there = max(window.there, in_flight)
        window.running = max(window.running, in_flight - waiting)
        window.waiting = min(window.waiting, waiting)
        window.unknown = min(window.unknown, waiting + silent)
        if now - self._looked_at >= LOOK_S:
            self._see(now, self._look(now))
            self._window, self._looked_at = _Window(), now

    def _look(self, now: float) -> Look:
        window = self._window
        if now - self._told_at > BELIEVED_S:
            return Look(window.running, window.waiting, True, window.there)
        running, waiting = self._told
        return Look(running, min(waiting, window.unknown), window.waiting > 0, window.there)

    def _see(self, now: float, look: Look) -> None:
        self._looks.append(look)
        sure = self._all(SURE_LOOKS, lambda each: each.crowded and each.sure)
        if sure or self._all(LOOKS, lambda each: each.crowded):
            self._be_crowded(now, look.running, look.running + look.waiting)
        elif self._all(LOOKS, lambda each: not each.crowded):
            self._be_clear(now, max(each.running for each in self._looks), max(each.there for each in self._looks))

    def _all(self, count: int, says: Callable[[Look], bool]) -> bool:
        """So many looks have been taken, and the last of them say so."""
        return len(self._looks) >= count and all(map(says, list(self._looks)[-count:]))

    def _be_crowded(self, now: float, running: float, in_flight: float) -> None:
        binds = in_flight <= self.ceiling + 0.5
        if self.ceiling == math.inf and now - self._changed_at < self._pause_s:
            return
        if self._trying:
            self._trying = False
            self._pause_s, self._step = min(LONGEST_TRY_S, max(TRY_S, 2 * self._pause_s)), 1.0
        elif binds and self.ceiling < math.inf and not self._helps:
            self._pause_s = min(LONGEST_TRY_S, 2 * self._pause_s)
            running = math.inf
        if binds:
            self._helps = False
        self._set(now, running)

    def _be_clear(self, now: float, running: float, there: int) -> None:
        self._helps = True
        if running > self.ceiling:
            self._set(now, running)
        elif there >= AT_IT * self.ceiling - 1:
            if self._trying:
                self._trying = False
                self._pause_s, self._step = 0.0, 2 * self._step
            if now - self._changed_at >= self._pause_s:
                self._set(now, self.ceiling + self._step * max(1.0, GROWTH * self.ceiling))
                self._trying = True

    def _set(self, now: float, ceiling: float) -> None:
        self.ceiling, self._changed_at = ceiling, now
        self._looks.clear()
