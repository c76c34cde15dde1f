"""What workers take from a queue: the only one of it all that is there; of several of a host, who finds nothing left
fetches for all of them.

As many records come at once as the host uses up in a short while: of quick steps many, so that a look at the queue is
worth it; of slow calls one, so that each is bound to a host when a place is free there, and not before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sage.record import Batch, merge
from sage.runtime.control import Control
from sage.runtime.rhythm import Rhythm

AHEAD_S = 0.04
"""So much work is fetched at once."""
MOST_ITEMS = 32
"""Fetched at once: they are in memory twice then."""
_SPAN_S = 0.05


class Fetch(Protocol):
    """The end of a queue."""

    def fetch(self, items: int) -> list[Batch]:
        """Wait for an item, then take what is there, up to so many; nothing at the end. Raises `Aborted`."""


class Pace:
    """How many records a host uses up. Pure: it is told the time."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._used = 0
        self._rate = 0.0

    def used(self, records: int, now_s: float) -> None:
        """So many went to workers."""
        if self._since_s is None:
            self._since_s = now_s
        self._used += records
        span_s = now_s - self._since_s
        if span_s >= _SPAN_S:
            self._rate = self._used / span_s
            self._used, self._since_s = 0, now_s

    def items(self, records_each: int) -> int:
        """How many items of so many records to fetch at once."""
        return max(1, min(MOST_ITEMS, int(self._rate * AHEAD_S) // max(1, records_each)))


class SoleSupply:
    """A `Supply` for the only worker that takes from a queue: all that is there, in turns where much comes."""

    def __init__(self, source: Fetch, rhythm: Rhythm, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._rhythm = rhythm
        self._clock = clock
        self._batches: deque[Batch] = deque()

    @property
    def records(self) -> int:
        """Records that wait here now."""
        return sum(map(len, tuple(self._batches)))

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """As `Supply.take`; a batch is never `full`."""
        if not self._batches:
            if rest_s := self._rhythm.rest_s(self._clock()):
                time.sleep(rest_s)
            self._batches += self._source.fetch(MOST_ITEMS)
            self._rhythm.took(len(self._batches), self._clock())
            if not self._batches:
                return None
        parts = [self._batches.popleft()]
        count = len(parts[0])
        if count > most:
            self._batches.appendleft(parts[0].slice(most, count))
            return parts[0].slice(0, most)
        while self._batches and count + len(self._batches[0]) <= most:
            parts.append(self._batches.popleft())
            count += len(parts[-1])
        return merge(parts)


class SharedSupply:
    """A `Supply` for `workers` workers."""

    def __init__(self, source: Fetch, workers: int, control: Control, clock: Callable[[], float] = time.monotonic):
        self._source = source
        self._workers = workers
        self._control = control
        self._clock = clock
        self._pace = Pace()
        self._batches: deque[Batch] = deque()
        self._offset = 0  # records of the first batch that were taken already
        self._records = 0
        self._each = 1  # records in an item, as they came last
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._fetching = False
        self._ended = False
        control.on_abort(self._wake_all)

    @property
    def records(self) -> int:
        """Records that wait here now."""
        return self._records

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """As `Supply.take`; a batch is never `full`."""
        with self._lock:
            while not self._batches:
                self._control.check()
                if self._ended:
                    return None
                if self._fetching:
                    self._filled.wait()
                else:
                    self._fetch()
            return self._share(most)

    def _share(self, most: int) -> Batch:
        """No worker gets what others could work on meanwhile."""
        first, start = self._batches[0], self._offset
        stop = min(len(first), start + min(most, max(1, self._records // self._workers)))
        self._offset = stop
        if stop == len(first):
            self._batches.popleft()
            self._offset = 0
        self._records -= stop - start
        self._pace.used(stop - start, self._clock())
        return first if stop - start == len(first) else first.slice(start, stop)

    def _fetch(self) -> None:
        """Without the lock, which is held before and after."""
        self._fetching = True
        self._lock.release()
        came = 0
        try:
            batches = self._source.fetch(self._pace.items(self._each))
            came = sum(map(len, batches))
        finally:
            self._lock.acquire()
            self._fetching = False
            self._filled.notify(came or self._workers)  # one of them takes what is left by the others, or fetches
        if came:
            self._batches += batches
            self._records += came
            self._each = -(-came // len(batches))
        else:
            self._ended = True

    def _wake_all(self) -> None:
        with self._lock:
            self._filled.notify_all()
