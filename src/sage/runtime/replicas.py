"""How many replicas of a blocking step work at once: as many as bring something, found by feedback.

A limiter (`sage.scheduling.limiter`) sees how many records end in what time with so many at work. Waiting overlaps, so
a step that waits gets more; computing does not, where Python computes on one thread at a time, so such a step gets
fewer, down to one; and so does one that waits for records: where nothing waits before the step, more bring nothing.
Never fewer than one, so no step starves; never more than the records that the run may have in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sage.clock import Clock
from sage.runtime.control import Control
from sage.runtime.stage import Stage
from sage.scheduling.limiter import AdaptiveLimit, Flight

TURN_S = 0.005
"""Of work, in a turn of several records."""


class Replicas:
    """Of one instance of a task; shared by its threads."""

    def __init__(self, most: int, control: Control, clock: Clock) -> None:
        self._limiter = AdaptiveLimit(most=most, streamed=False)
        self._limit = self._limiter.limit
        self._turn = 1
        self._control = control
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted = [threading.Event() for _ in range(most)]
        """One each: to wake all for one that is wanted takes longer than what it is wanted for."""
        self._over = False
        control.on_abort(self._wake)

    @property
    def limit(self) -> int:
        """So many may be at work."""
        return self._limit

    def replica(self, number: int, stages: Sequence[Stage]) -> Replica:
        """The one with this number, from 0 on; lower ones are used first."""
        return Replica(self, number, stages)

    def wait_wanted(self, number: int) -> bool:
        """Wait until this one is to work; False when there is nothing more to do. Raises `Aborted`."""
        if number < self._limit:
            return not self._over
        while number >= self._limit and not self._over:
            self._wanted[number].clear()
            self._control.check()
            if number >= self._limit and not self._over:  # nobody has set it since
                self._wanted[number].wait()
        return not self._over

    @property
    def turn(self) -> int:
        """Records that one may take at once: of quick ones several, as each turn has its price; but where one is at
        work alone only, or they would be another's."""
        return self._turn if self._limit == 1 else 1

    def begin(self) -> Flight:
        with self._lock:
            return self._limiter.begin(self._clock.monotonic())

    def end(self, flight: Flight, records: int, took_s: float) -> None:
        """A batch is done, so long after it was taken."""
        with self._lock:
            now = self._clock.monotonic()
            self._turn = max(1, min(2 * self._turn, int(TURN_S * records / took_s))) if took_s > 0 else self._turn
            self._limiter.progress(flight, now, float(records))
            self._limiter.end(flight, now)
            limit, self._limit = self._limit, self._limiter.limit
        for wanted in self._wanted[limit : self._limit]:
            wanted.set()

    def end_all(self) -> None:
        """The input has ended."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        for wanted in self._wanted:
            wanted.set()


class Replica:
    """One thread with its own copy of the operator, opened when it is first wanted; the first, before the run."""

    def __init__(self, replicas: Replicas, number: int, stages: Sequence[Stage]) -> None:
        self._replicas = replicas
        self._number = number
        self._stages = stages
        self._opened = number == 0
        self._flight: Flight | None = None
        self._busy_before_s = 0.0
        self._count(int(self._opened))

    def wait_wanted(self) -> bool:
        """What it did last is done: wait until it is to go on; False at the end."""
        wanted = self._replicas.wait_wanted(self._number)
        if wanted and not self._opened:
            self._opened = True
            for stage in self._stages:
                stage.open()
            self._count(1)
        if wanted:
            self._flight = self._replicas.begin()  # what waits for records brings nothing either
        return wanted

    def most(self, take: int) -> int:
        """How many records to take now, where the step takes `take`."""
        return max(take, self._replicas.turn)

    def end(self, records: int) -> None:
        """The batch, of so many `records`, is done."""
        assert self._flight is not None
        self._replicas.end(self._flight, records, self._busy_s())

    def _busy_s(self) -> float:
        """In the operator, since this was asked last."""
        before, self._busy_before_s = self._busy_before_s, sum(stage.stats.busy_s for stage in self._stages)
        return self._busy_before_s - before

    def end_all(self) -> None:
        """There is nothing more to take."""
        self._replicas.end_all()

    def _count(self, slots: int) -> None:
        for stage in self._stages:
            stage.stats.slots = slots
