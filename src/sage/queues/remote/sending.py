"""How items leave the producing end of a queue on another machine, for places and bytes that were reserved before.

The first after a pause goes at once, on the thread that puts it. Those that follow closely are gathered, until there
are enough of them, or `linger_ms` are over: `batch_size`, more where more are put in a millisecond, and fewer large
ones. So a lone item is not delayed, and a flood leaves in large frames. An item is pickled when it leaves, and must not
be changed after it was put.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sage.errors import QueueBroken, QueueError
from sage.queues.frames import Frame, pack, pack_many
from sage.queues.queue import Settings, closed_error
from sage.queues.remote.link import Link
from sage.queues.remote.messages import Ask, Back, Need, of_frame
from sage.queues.remote.pace import Pace

WINDOW_BYTES = 32 * 1024 * 1024
"""How much may be on its way and not accepted."""
_TOGETHER = 5_000  # items travel together, so many at most
_OF_ALL = 8  # and no more than one of so many that fit into the queue
_GATHER_S = 0.001
NEVER = float("inf")
_GAP_S = 0.000_2
_FIRST_PLACES = 256
_MOST_PLACES = 1 << 18
_FRAME_BYTES = 64 * 1024
_KEPT = 8  # places that an idle producer keeps, for an item that is in a hurry
_KEPT_OF = 64  # but at most one of so many
_SOME, _SOME_OF = 8, 16  # places of a small queue that a producer asks for: so many at least, and one of so many


class _Sent(NamedTuple):
    number: int
    items: list[Any]
    size_bytes: int


class Sending:
    """Not for others: `Producer` is."""

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
        self._granted = self._granted_size = 0  # ever
        self._asked = self._asked_size = 0  # up to how many to be granted, ever; 0: that is not known any more
        self._max_bytes = 0  # 0: the queue does not count them
        self._credit = 0  # bytes that may be put
        self._spent = 0  # of it, for items that could not be sent: the next frame tells
        self._needed_size = 0
        self._item_weight = 256.0  # of late
        self._buffer: list[Any] = []
        self._weight = 0  # of the items in it
        self._limit = 1
        self._first_at = NEVER
        self._sent_at = 0.0
        self._prompt = False
        self._sent = 0  # frames, ever
        self._flying: deque[_Sent] = deque()
        self._flying_bytes = 0
        self._failed: list[tuple[QueueError, list[Any]]] = []
        self._questions: dict[int, bool] = {}  # and whether they were answered
        self._closed = False
        self._broken: QueueBroken | None = None
        self._pace = Pace(_FIRST_PLACES, _MOST_PLACES)
        self._together = _TOGETHER
        self._item_bytes = 4_096.0  # of late, with every frame it comes nearer to what is true
        self.kept = 0
        self.puts = self.batches = self.batch_items = self.bytes = 0

    def limit(self, maxsize: int | None, max_bytes: int | None) -> None:
        """What the server said of the queue: how many items fit, and how many bytes."""
        self.kept = kept_places(maxsize)
        self._pace.least = self._pace.ahead = first_places(maxsize)
        self._max_bytes = max_bytes or 0
        if maxsize is not None:
            self._together = min(_TOGETHER, maxsize // _OF_ALL)

    # --- under the lock ---

    def _fitting(self, count: int) -> int:
        """How many items make a frame: `count`, and fewer large ones."""
        if not self._settings.adaptive:
            return count
        return max(1, min(count, int(_FRAME_BYTES / self._item_bytes)))

    def _enough(self) -> int:
        """How many items are worth a frame now."""
        enough = self._settings.batch_size
        if enough > 1 and self._settings.adaptive:
            enough = max(enough, min(int(self._pace.rate * _GATHER_S), self._together))
        return self._fitting(enough)

    def _gathered(self) -> None:
        """Look whether the buffer is to be sent: after a pause, or when enough items are in it."""
        enough = self._enough()
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
        items = self._buffer
        now = now or time.monotonic()
        start = 0
        while start < len(items) and self._flying_bytes <= WINDOW_BYTES:
            end = min(start + self._fitting(_TOGETHER), len(items))
            share = self._weight * (end - start) // (len(items) - start)
            self._weight -= share
            self._send_together(items[start:end], share)
            start = end
        self._buffer = items[start:]
        self._limit = 1
        self._first_at = NEVER
        self.puts += start
        self._pace.note(self.puts, now, self._link.round_trip_s)
        self._sent_at = time.monotonic()  # a send takes its time: what comes right after it comes after no pause
        places = max(self._places, self._places + self._asked - self._granted)  # with those to come
        credit = max(self._credit, self._credit + self._asked_size - self._granted_size)
        if (places < self._pace.ahead // 2 or credit < self._size_ahead() // 2) and not self._closed:
            self._ask_for_places()

    def _send_together(self, items: list[Any], weight: int) -> None:
        """Send `items` as a frame; where one of them cannot be packed, the others in a frame each."""
        try:
            frame = self._packed(items)
        except QueueError as error:
            if len(items) > 1:
                for item in items:
                    self._send_together([item], weight // len(items))
                weight %= len(items)
            else:
                self._fail(error, items)
            self._spent += weight
            return
        self._send_frame(frame, items, weight)

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
        need, size = need and self._granted + need, size and self._granted_size + size
        if need > self._asked or size > self._asked_size:
            self._asked, self._asked_size = max(need, self._asked), max(size, self._asked_size)
            self._link.send(Need(self._port, self._asked, self._asked_size))

    def _ask(self, what: str, count: int, size: int = 0) -> int:
        number = next(self._numbers)
        self._link.send(Ask(self._port, number, what, count, size))
        return number

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
        self._buffer, self._weight = [], 0
        return found

    def _raise_failures(self) -> None:
        """Tell what could not be delivered, after the call that tells it did its own work."""
        if self._failed:
            failed, self._failed = self._failed, []
            error = failed[0][0]
            error.items = [item for _, items in failed for item in items]
            raise error

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


def first_places(maxsize: int | None) -> int:
    """How many places a producer asks for before it is known to need more: of a small queue a part, or the first one
    would have what all others wait for."""
    return _FIRST_PLACES if maxsize is None else min(_FIRST_PLACES, max(min(maxsize, _SOME), maxsize // _SOME_OF))
