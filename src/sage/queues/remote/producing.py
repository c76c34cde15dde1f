"""The producing end of a queue on another machine: puts spend places that were reserved before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from sage.errors import QueueBroken, QueueError
from sage.queues.queue import BatchFull, Settings, deadline_of
from sage.queues.remote.link import Link
from sage.queues.remote.messages import Back
from sage.queues.remote.sending import NEVER, WINDOW_BYTES, Sending
from sage.queues.sizes import weight_of, weight_of_all
from sage.queues.waited import Waited

GRACE_S = 1.0
"""How long after its timeout a call waits for the server's word on whether the queue is full or empty."""
_FLOOD_S = 0.01
_SMALL_BYTES = 64 * 1024  # a batch of no more is weighed as a whole
_IDLE_S = 0.2
_CLOSE_S = 10.0


class Producer(Sending):
    """Not for users: `RemoteQueue` is."""

    def __init__(
        self, link: Link, port: int, queue_id: str, settings: Settings, numbers: Iterator[int], *, by_value: bool
    ) -> None:
        super().__init__(link, port, queue_id, settings, numbers, by_value=by_value)
        self.waited = Waited()

    # --- for users' threads ---

    def put(self, item: Any, block: bool, timeout: float | None) -> None:
        weight = weight_of(item) if self._max_bytes else 0
        with self._lock:
            if self._places and weight <= self._credit:
                self._places -= 1
                self._credit -= weight
                self._buffer.append(item)
                self._weight += weight
                if len(self._buffer) >= self._limit:
                    self._gathered()
                return
        self._put_some([item], block, timeout)

    def put_batch(self, items: Sequence[Any], block: bool, timeout: float | None) -> None:
        rest = list(items)
        self.batches += 1
        self.batch_items += len(rest)
        if rest:
            self._put_some(rest, block, timeout)

    def _put_some(self, items: list[Any], block: bool, timeout: float | None) -> None:
        """All of `items`, in order. Raises `BatchFull` with the rest."""
        size = weight_of_all(items) if self._max_bytes else 0
        with self._lock:
            self._check(items)
            if len(items) <= self._places and size <= min(self._credit, _SMALL_BYTES):  # what is usual
                self._take_over(items, size)
                self._raise_failures()
                return
            weights = deque(map(weight_of, items) if self._max_bytes else repeat(0, len(items)))
            rest = items[self._spend(items, weights) :]
            if rest:
                started = time.monotonic()
                deadline = deadline_of(timeout, started) if block else started
                with self.waited:
                    self._put_rest(rest, weights, deadline)
            self._raise_failures()

    def _put_rest(self, rest: list[Any], weights: deque[int], deadline: float | None) -> None:
        while rest:
            if weights[0] > self._max_bytes > 0:
                what = "the item is larger than max_bytes"
                error = QueueError("E509", what, at=f"queue {self._queue_id}", got=f"{weights[0]:,} bytes")
                error.items = rest
                raise error
            self._wait_for_places(rest, weights, deadline)
            rest = rest[self._spend(rest, weights) :]

    def _spend(self, items: list[Any], weights: deque[int]) -> int:
        """Put as many of `items` as there are places and bytes for; their `weights` are taken away."""
        count = size = 0
        while count < min(len(items), self._places) and size + weights[0] <= self._credit:
            size += weights.popleft()
            count += 1
        if count:
            self._take_over(items[:count], size)
        return count

    def _take_over(self, items: list[Any], size: int) -> None:
        """Put `items`, for which there is room."""
        self._places -= len(items)
        self._credit -= size
        self._buffer += items
        self._weight += size
        if len(self._buffer) >= self._limit:
            self._gathered()

    def _wait_for_places(self, rest: list[Any], weights: deque[int], deadline: float | None) -> None:
        """Return when the first item can be put. Raises `BatchFull` when the server says that there is no room."""
        self._send()
        first, size = weights[0], min(sum(weights), self._max_bytes)
        self._needed += len(rest)
        self._needed_size += size
        try:
            while not self._has_room(first):
                now = time.monotonic()
                left = None if deadline is None else deadline - now
                if left is not None and left <= 0:
                    if self._is_full(rest, first, now + GRACE_S):
                        raise BatchFull(rest)
                    continue
                self._ask_for_places()
                self._link.expect()
                self._changed.wait(left)
                self._check(rest)
        finally:
            self._needed -= len(rest)
            self._needed_size -= size

    def _has_room(self, weight: int) -> bool:
        return self._places > 0 and self._credit >= weight

    def _is_full(self, rest: list[Any], first: int, until: float) -> bool:
        """Ask the server: it reserves room for `rest`, or knows that there is none, not even for the `first` bytes."""
        number = self._ask("room", len(rest), max(0, first - self._credit))
        self._questions[number] = False
        try:
            while not self._has_room(first) and (self._held_back or not self._questions[number]):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
                self._check(rest)
        finally:
            del self._questions[number]
        return not self._has_room(first)

    def put_whole(self, items: list[Any]) -> None:
        """All `items`, which no others come between, or none: raises `BatchFull`. Waits for nothing but the server."""
        count, size = len(items), weight_of_all(items) if self._max_bytes else 0
        with self._lock:
            self._check(items)
            self._send()
            self._needed += count
            self._needed_size += size
            try:
                has_room = self._finds_room(items, size)
            finally:
                self._needed -= count
                self._needed_size -= size
            if not has_room:
                raise BatchFull(items)
            frame = self._packed(items)
            self._places -= count
            self._credit -= size
            self.puts += count
            self._send_frame(frame, items, size)
            self._raise_failures()

    def _finds_room(self, items: list[Any], size: int) -> bool:
        """Ask for room for all of `items` as long as that brings some."""
        until = time.monotonic() + GRACE_S
        had = -1, -1
        while self._buffer or self._places < len(items) or self._credit < size:
            has = self._places, self._credit
            if has == had and not self._held_back:
                return False
            had = has
            number = self._ask("room", max(0, len(items) - self._places), max(0, size - self._credit))
            self._questions[number] = False
            while not self._questions[number]:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
                self._check(items)
            if not self._questions.pop(number):
                return False
        return True

    def flush(self) -> None:
        with self._lock:
            self._send()
            self._raise_failures()

    def hurry(self) -> int:
        """Send what waits: this process wants to get it itself. Returns how many items were put, ever."""
        with self._lock:
            if self._buffer:
                self._send()
            return self.puts

    def wait_until_accepted(self, timeout: float | None) -> bool:
        """Wait until everything that was put is in the queue."""
        deadline = deadline_of(timeout, time.monotonic())
        with self._lock:
            self._prompt = True
            self._send()
            if self._flying:
                self._ask("look", 0)
            while (self._flying or self._buffer) and self._broken is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
            if self._flying or self._buffer:
                self._check(())
            self._raise_failures()
        return True

    def close(self) -> None:
        """Send what waits, which may have to wait until something is accepted, and no more puts."""
        with self._lock:
            self._send()
            self._changed.wait_for(lambda: not self._buffer or self._broken is not None, _CLOSE_S)
            self._close()

    def pending(self) -> tuple[int, int]:
        """Frames on their way, and items that wait to be sent."""
        return len(self._flying), len(self._buffer)

    @property
    def unaccepted(self) -> int:
        """Items that are perhaps not in the queue yet."""
        with self._lock:
            return sum(len(sent.items) for sent in self._flying) + len(self._buffer)

    # --- for the link's thread ---

    def granted(self, count: int, size: int) -> None:
        with self._lock:
            self._granted += count
            self._granted_size += size
            if self._closed or self._broken is not None:
                self._link.send(Back(self._port, count, size))
                return
            self._credit += size
            if self._flying_bytes > WINDOW_BYTES:
                self._held_back += count
                return
            self._places += count
            if self._needed:
                self._changed.notify_all()

    def answered(self, number: int, *, closed: bool) -> None:
        with self._lock:
            if number in self._questions:
                self._questions[number] = True
                self._asked = self._asked_size = 0
            if closed:
                self._close()
            self._changed.notify_all()

    def accepted(self, frames: int) -> None:
        with self._lock:
            while self._flying and self._flying[0].number <= frames:
                self._flying_bytes -= self._flying.popleft().size_bytes
            self._prompt = self._prompt and bool(self._flying)
            if self._first_at == NEVER:
                self._send()  # what was too much before
            self._reopen()
            self._changed.notify_all()

    def rejected(self, frame: int, error: QueueError) -> None:
        """The server could not put a frame: try its items one by one."""
        with self._lock:
            sent = next((sent for sent in self._flying if sent.number == frame), None)
            if sent is None:
                return
            self._flying.remove(sent)
            self._flying_bytes -= sent.size_bytes
            if len(sent.items) == 1:
                self._fail(error, sent.items)
            else:
                for item in sent.items:
                    self._send_together([item], 0)  # the rejected frame has told
            self._changed.notify_all()

    def recalled(self, *, places: bool, closed: bool) -> tuple[int, int]:
        """Send what waits; returns how many places and bytes are given back."""
        with self._lock:
            self._send()
            if closed:
                self._close()
            if not places:
                return 0, 0
            kept = min(self._places, self._needed)  # their callers are about to wake
            back = self._places - kept + self._held_back
            self._places, self._held_back = kept, 0
            return back, self._give_up_credit()

    def _give_up_credit(self) -> int:
        kept = min(self._credit, self._needed_size)
        back, self._credit = self._credit - kept, kept
        return back

    def settled(self) -> None:
        """After a recall was answered: whoever still waits for places says so again."""
        with self._lock:
            self._asked = self._asked_size = 0
            if self._needed and not self._closed:
                self._ask_for_places()

    def tick(self, now: float) -> float:
        """Send what lingered long enough, give back what is not used."""
        with self._lock:
            linger_s = self._settings.linger_ms / 1000
            if self._buffer:
                if now < self._first_at + linger_s:
                    return self._first_at + linger_s
                self._send(now)
            if now - self._sent_at < _FLOOD_S and self._enough() > 1:
                return now + linger_s  # there is more to come: nobody has to wake this thread for it
            spare = max(0, self._places - self.kept)
            if not (spare or self._credit) or self._needed:
                return NEVER
            due = self._sent_at + _IDLE_S
            if now < due:
                return due
            self._places -= spare
            self._asked = self._asked_size = 0
            self._link.send(Back(self._port, spare, self._give_up_credit()))
            return NEVER

    def is_waiting(self) -> bool:
        return bool(self._flying or self._needed or self._buffer)

    def broken(self, error: QueueBroken) -> None:
        with self._lock:
            self._broken = self._broken or error
            self._places = self._held_back = self._credit = 0
            self._changed.notify_all()
