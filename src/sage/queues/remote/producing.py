"""The producing end of a queue on another machine: puts spend places that were reserved before, items are gathered.

How items leave. The first after a pause goes at once, on the thread that puts it. Those that follow closely are
gathered, until there are enough of them, or `linger_ms` are over: `batch_size` for items put one by one, a thousand for
lists, and fewer large ones. So a lone item is not delayed, and a flood leaves in large frames. An item is pickled when
it leaves, and must not be changed after it was put.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from sage.errors import QueueBroken, QueueError
from sage.queues.frames import Frame, pack, pack_many
from sage.queues.queue import BatchFull, Settings, closed_error, deadline_of
from sage.queues.remote.link import Link
from sage.queues.remote.messages import Ask, Back, Need, of_frame
from sage.queues.remote.pace import Pace
from sage.queues.sizes import weight_of
from sage.queues.waited import Waited

GRACE_S = 1.0
"""How long after its timeout a call waits for the server's word on whether the queue is full or empty."""
WINDOW_BYTES = 32 * 1024 * 1024
"""How much may be on its way and not accepted."""
_GAP_S = 0.000_2
_FLOOD_S = 0.01
_IDLE_S = 0.2
_CLOSE_S = 10.0
_KEPT = 8  # places that an idle producer keeps, for an item that is in a hurry
_KEPT_OF = 64  # but at most one of so many
_FIRST = 256
_MOST = 1 << 18
_FRAME_BYTES = 64 * 1024
_TOGETHER = 1_000  # items of lists that are put one after the other
_NEVER = float("inf")


class _Sent(NamedTuple):
    number: int
    items: list[Any]
    size_bytes: int


class Producer:
    """Not for users: `RemoteQueue` is."""

    def __init__(
        self, link: Link, port: int, queue_id: str, settings: Settings, numbers: Iterator[int], *, by_value: bool
    ) -> None:
        self._link = link
        self._numbers = numbers
        self._port = port
        self._queue_id = queue_id
        self._settings = settings
        self._by_value = by_value
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._places = 0  # 0 whenever a put must not simply go on
        self._held_back = 0  # places that are not used while too much is on its way
        self._needed = 0  # by those who wait
        self._asked = 0
        self._max_bytes = 0  # 0: the queue does not count them
        self._credit = 0  # bytes that may be put
        self._spent = 0  # of it, for items that could not be sent: the next frame tells
        self._needed_size = self._asked_size = 0
        self._item_weight = 256.0  # of late
        self._buffer: list[Any] = []
        self._weights: list[int] = []  # of the items in it
        self._limit = 1
        self._first_at = _NEVER
        self._sent_at = 0.0
        self._prompt = False
        self._sent = 0  # frames, ever
        self._flying: deque[_Sent] = deque()
        self._flying_bytes = 0
        self._failed: list[tuple[QueueError, list[Any]]] = []
        self._questions: dict[int, bool] = {}  # and whether they were answered
        self._closed = False
        self._broken: QueueBroken | None = None
        self._pace = Pace(_FIRST, _MOST)
        self._item_bytes = 4_096.0  # of late, with every frame it comes nearer to what is true
        self.kept = 0
        self.puts = self.batches = self.batch_items = self.bytes = 0
        self.waited = Waited()

    # --- for users' threads ---

    def put(self, item: Any, block: bool, timeout: float | None) -> None:
        weight = weight_of(item) if self._max_bytes else 0
        with self._lock:
            if self._places and weight <= self._credit:
                self._places -= 1
                self._credit -= weight
                self._buffer.append(item)
                self._weights.append(weight)
                if len(self._buffer) >= self._limit:
                    self._gathered(self._settings.batch_size)
                return
        self._put_some([item], block, timeout)

    def put_batch(self, items: Sequence[Any], block: bool, timeout: float | None) -> None:
        rest = list(items)
        self.batches += 1
        self.batch_items += len(rest)
        if rest:
            self._put_some(rest, block, timeout)

    def limit(self, kept: int, max_bytes: int | None) -> None:
        """What the server said of the queue: how many places to keep when idle, and how many bytes fit."""
        self.kept = kept
        self._max_bytes = max_bytes or 0

    def _put_some(self, items: list[Any], block: bool, timeout: float | None) -> None:
        """All of `items`, in order. Raises `BatchFull` with the rest."""
        weights = deque(map(weight_of, items)) if self._max_bytes else deque(repeat(0, len(items)))
        with self._lock:
            self._check(items)
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
        taken = 0
        while taken < len(items) and taken < self._places and weights[0] <= self._credit:
            self._credit -= weights[0]
            self._weights.append(weights.popleft())
            taken += 1
        if taken:
            self._places -= taken
            self._buffer += items if taken == len(items) else items[:taken]
            if len(self._buffer) >= self._limit:
                self._gathered(max(_TOGETHER, self._settings.batch_size))
        return taken

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

    def _check(self, items: Sequence[Any]) -> None:
        """Raise what keeps `items` from being put."""
        if self._broken is not None:
            error = QueueBroken(self._broken.code, self._broken.what, at=self._broken.at)
            error.items = [*self._take_unknown(), *items]
            raise error
        if self._closed:
            raise closed_error(self._queue_id, items)

    def _take_unknown(self) -> list[Any]:
        """The items that perhaps are not in the queue; each is told once."""
        found = [item for sent in self._flying for item in sent.items] + self._buffer
        self._flying.clear()
        self._buffer, self._weights = [], []
        return found

    def _raise_failures(self) -> None:
        """Tell what could not be delivered, after the call that tells it did its own work."""
        if self._failed:
            failed, self._failed = self._failed, []
            error = failed[0][0]
            error.items = [item for _, items in failed for item in items]
            raise error

    # --- sending, under the lock ---

    def _fitting(self, count: int) -> int:
        """How many items make a frame: `count`, and fewer large ones."""
        if not self._settings.adaptive:
            return count
        return max(1, min(count, int(_FRAME_BYTES / self._item_bytes)))

    def _gathered(self, enough: int) -> None:
        """Look whether the buffer is to be sent: after a pause, or when `enough` items are in it, fewer large ones."""
        enough = self._fitting(enough)
        now = time.monotonic()
        if len(self._buffer) < enough and (now - self._sent_at < _GAP_S or not self._settings.adaptive):
            self._limit = enough
            self._first_at = min(self._first_at, now)
            self._link.wake_by(self._first_at + self._settings.linger_ms / 1000)
            return
        self._send(now)
        self._raise_failures()

    def _send(self, now: float | None = None) -> None:
        """Send the buffer, but for what would be too much on its way: that is sent as soon as something is accepted."""
        if not self._buffer or self._broken is not None:
            return
        items, weights = self._buffer, self._weights
        self._sent_at = now = now or time.monotonic()
        start = 0
        while start < len(items) and self._flying_bytes <= WINDOW_BYTES:
            end = start + self._fitting(_TOGETHER)
            self._send_together(items[start:end], weights[start:end])
            start = min(end, len(items))
        self._buffer, self._weights = items[start:], weights[start:]
        self._limit = 1
        self._first_at = _NEVER
        self.puts += start
        self._pace.note(self.puts, now, self._link.round_trip_s)
        is_short = self._places < self._pace.ahead // 2 or self._credit < self._size_ahead() // 2
        if is_short and not self._closed:
            self._ask_for_places()

    def _send_together(self, items: list[Any], weights: list[int]) -> None:
        try:
            frame = self._packed(items)
        except QueueError as error:
            if len(items) == 1:
                self._spent += weights[0]
                self._fail(error, items)
                return
            for item, weight in zip(items, weights, strict=True):
                self._send_together([item], [weight])
            return
        self._send_frame(frame, items, sum(weights))

    def _packed(self, items: list[Any]) -> Frame:
        if len(items) == 1:
            return pack(items[0], by_value=self._by_value)
        return pack_many(items, by_value=self._by_value)

    def _send_frame(self, frame: Frame, items: list[Any], weight: int) -> None:
        """With the `weight` of its own items: what is still to come stays reserved at the server."""
        size = frame.size_bytes
        self._item_bytes += (size / len(items) - self._item_bytes) / 2
        self._sent += 1
        self._flying.append(_Sent(self._sent, items, size))
        self._flying_bytes += size
        self.bytes += size
        self._item_weight += (weight / len(items) - self._item_weight) / 4
        message, parts = of_frame(self._port, frame, prompt=self._prompt, spent=weight + self._spent)
        self._spent = 0
        self._link.send(message, parts)
        if self._flying_bytes > WINDOW_BYTES:
            self._held_back += self._places
            self._places = 0

    def _fail(self, error: QueueError, items: list[Any]) -> None:
        """`items` cannot be delivered; whoever calls next is told."""
        self._failed.append((error, items))
        self._held_back += self._places + len(items)
        self._places = 0
        self._reopen()

    def _reopen(self) -> None:
        """Let puts go on if nothing is in their way."""
        if self._flying_bytes <= WINDOW_BYTES and not self._closed and self._broken is None:
            self._places += self._held_back
            self._held_back = 0

    def _size_ahead(self) -> int:
        """How many bytes to have at hand: for as many items as there are to be places, but never all that fit."""
        return min(int(self._pace.ahead * self._item_weight), self._max_bytes // 4)

    def _ask_for_places(self) -> None:
        need = max(0, max(self._needed, self._pace.ahead) - self._places - self._held_back)
        size = max(0, max(self._needed_size, self._size_ahead()) - self._credit)
        if need > self._asked or size > self._asked_size:
            self._asked, self._asked_size = need, size
            self._link.send(Need(self._port, need, size))

    def _ask(self, what: str, count: int, size: int = 0) -> int:
        number = next(self._numbers)
        self._link.send(Ask(self._port, number, what, count, size))
        return number

    # --- for the link's thread ---

    def granted(self, count: int, size: int) -> None:
        with self._lock:
            self._asked = max(0, self._asked - count)
            self._asked_size = max(0, self._asked_size - size)
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
            if self._first_at == _NEVER:
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
                    self._send_together([item], [0])  # the rejected frame has told
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
            if now - self._sent_at < _FLOOD_S:
                return now + linger_s  # there is more to come: nobody has to wake this thread for it
            spare = max(0, self._places - self.kept)
            if not (spare or self._credit) or self._needed:
                return _NEVER
            due = self._sent_at + _IDLE_S
            if now < due:
                return due
            self._places -= spare
            self._asked = self._asked_size = 0
            self._link.send(Back(self._port, spare, self._give_up_credit()))
            return _NEVER

    def is_waiting(self) -> bool:
        return bool(self._flying or self._needed or self._buffer)

    def broken(self, error: QueueBroken) -> None:
        with self._lock:
            self._broken = self._broken or error
            self._places = self._held_back = self._credit = 0
            self._changed.notify_all()

    def _close(self) -> None:
        self._closed = True
        self._held_back += self._places
        self._places = 0
        if (self._held_back or self._credit) and self._broken is None:
            self._link.send(Back(self._port, self._held_back, self._credit))
        self._held_back = self._credit = 0
        self._changed.notify_all()


def kept_places(maxsize: int | None) -> int:
    """How many places an idle producer keeps."""
    return _KEPT if maxsize is None else min(_KEPT, maxsize // _KEPT_OF)
