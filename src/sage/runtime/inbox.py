"""The inbox of a task: bounded in records, owned by its consumer, filled by any number of producers.

Inside a host a batch is handed over by reference; between hosts there are the two ends of `edges.py` in its place.
Threads wait on conditions; the event loop is called back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sage.record import Batch, merge
from sage.runtime.control import Control

LINGER_S = 0.01
"""How long a consumer that wants full batches waits for more, once it has something."""


class Entry(Protocol):
    """Where a connection puts batches."""

    @property
    def fill(self) -> float:
        """The part of it that is taken, as last seen; more than 1 where one batch is larger than it."""

    def put(self, batch: Batch) -> None:
        """Wait for room and hand `batch` over. Raises `Aborted`."""

    def producer_done(self) -> None:
        """One producer will put no more."""


class Supply(Protocol):
    """Where a worker takes batches from."""

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """Wait for records and take up to `most`; None when all producers are done and nothing is left.

        With `full`, waits a short while (`LINGER_S`) for `most` records to be there. Raises `Aborted`.
        """


class Inbox:
    """Holds at most `capacity` records, or one batch that is larger. `producers` must each call `producer_done`."""

    def __init__(self, capacity: int, control: Control, producers: int) -> None:
        self.capacity = capacity
        self._control = control
        self._producers = producers
        self._batches: deque[Batch] = deque()
        self._offset = 0  # records of the first batch that were taken already
        self._records = 0
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._freed = threading.Condition(self._lock)
        self._on_filled: list[Callable[[], None]] = []
        self._on_freed: list[tuple[int, Callable[[], None]]] = []
        self._wanted: list[int] = []  # the sizes of batches for which producers wait
        self.put_wait_s = 0.0
        control.on_abort(self._wake_all)

    @property
    def fill(self) -> float:
        return self._records / self.capacity

    @property
    def records(self) -> int:
        """Records that wait here now."""
        return self._records

    def put(self, batch: Batch) -> None:
        with self._lock:
            if not self._has_room(len(batch)):
                since = time.monotonic()
                self._wanted.append(len(batch))
                while not self._has_room(len(batch)):
                    self._control.check()
                    self._freed.wait()
                self._wanted.remove(len(batch))
                self.put_wait_s += time.monotonic() - since
            self._append(batch)

    def offer(self, batch: Batch, on_freed: Callable[[], None]) -> bool:
        """Hand `batch` over if there is room; otherwise False, and `on_freed` is called once when there may be."""
        with self._lock:
            if not self._has_room(len(batch)):
                self._on_freed.append((len(batch), on_freed))
                return False
            self._append(batch)
            return True

    def producer_done(self) -> None:
        """One producer will put no more. After the last one, `take` returns None when the inbox is empty."""
        with self._lock:
            self._producers -= 1
            if self._producers == 0:
                self._notify_filled()

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        with self._lock:
            while True:
                while not self._batches:
                    self._control.check()
                    if self._producers == 0:
                        return None
                    self._filled.wait()
                if full:
                    self._linger(most)
                if self._batches:  # while this consumer lingered, another may have taken all
                    return self._take(most)

    def take_now(self, most: int) -> Batch | None:
        """Take up to `most` records without waiting; None if there are none."""
        with self._lock:
            return self._take(most) if self._batches else None

    def when_filled(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from any thread, when there are records or the end is reached; at once if so now."""
        with self._lock:
            now = bool(self._batches) or self._producers == 0
            if not now:
                self._on_filled.append(callback)
        if now:
            callback()

    @property
    def ended(self) -> bool:
        """All producers are done and everything was taken."""
        return self._producers == 0 and not self._batches

    def _has_room(self, records: int) -> bool:
        return self._records == 0 or self._records + records <= self.capacity

    def _append(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._records += len(batch)
        self._notify_filled()

    def _notify_filled(self) -> None:
        self._filled.notify_all()
        callbacks, self._on_filled = self._on_filled, []
        for callback in callbacks:
            callback()

    def _linger(self, most: int) -> None:
        until = time.monotonic() + LINGER_S
        while self._records < most and self._producers > 0:
            left = until - time.monotonic()
            if left <= 0 or self._control.stopping.is_set():
                return
            self._filled.wait(left)

    def _take(self, most: int) -> Batch:
        parts: list[Batch] = []
        taken = 0
        while taken < most and self._batches:
            head, start = self._batches[0], self._offset
            stop = min(len(head), start + most - taken)
            parts.append(head if stop - start == len(head) else head.slice(start, stop))
            taken += stop - start
            self._offset = stop
            if stop == len(head):
                self._batches.popleft()
                self._offset = 0
        self._records -= taken
        self._notify_freed()
        return merge(parts)

    def _notify_freed(self) -> None:
        """Wake the producers for whom there is room now; to wake the others for each record taken would cost a lot."""
        if any(map(self._has_room, self._wanted)):
            self._freed.notify_all()
        if self._on_freed:
            ready = [callback for records, callback in self._on_freed if self._has_room(records)]
            self._on_freed = [waiting for waiting in self._on_freed if not self._has_room(waiting[0])]
            for callback in ready:
                callback()

    def _wake_all(self) -> None:
        with self._lock:
            self._filled.notify_all()
            self._freed.notify_all()
            callbacks = [*self._on_filled, *(callback for _, callback in self._on_freed)]
            self._on_filled, self._on_freed = [], []
        for callback in callbacks:
            callback()
