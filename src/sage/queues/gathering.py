"""Single items of one process on their way into a ring: gathered, and put there many at a time.

A thread of the handle sends what has waited for `linger_ms`, and answers the calls of other processes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import repeat, starmap
from typing import Any

from sage.errors import QueueError
from sage.queues.frames import LARGE_BYTES, Frame, Frozen, pack, pack_many
from sage.queues.peers import Peers
from sage.queues.queue import Settings
from sage.queues.ring import Ring
from sage.queues.ring_putting import PLACE_BYTES
from sage.queues.serving import Settles

_GAP_S = 20e-6  # an item that comes so long after the last frame leaves at once
_FRAME_BYTES = 32 * 1024  # enough: larger frames cost no less per byte
_SERVER_S = 0.1


class Gathering:
    """Items that were put and not sent, and the places in the ring that are reserved for them."""

    def __init__(self, ring: Ring, peers: Peers, *, by_value: bool) -> None:
        self._ring = ring
        self._peers = peers
        self._by_value = by_value
        self.server: Settles | None = None
        self.begin()

    def begin(self) -> None:
        """As if nothing had been put: in a forked child, what was is its parent's."""
        self._lock = threading.Lock()
        self._items: deque[Any] = deque()
        self._unsent: deque[list[Any]] = deque()
        self._pop = self._items.popleft
        self.append = self._items.append
        self.room: Iterator[None] = repeat(None, 0)
        """Each step of it is a place for an item that is then appended."""
        self._held = 0  # places: those in `room`, and those of items that were not sent
        self._per_frame = 1_000_000
        self._sent_at = 0.0
        self._linger_s = 0.0
        self._thread: threading.Thread | None = None
        self._sleeps = False  # the thread, until it is called
        self._ended = False
        self._failed: QueueError | None = None
        self.sent = 0

    @property
    def size(self) -> int:
        """Items not sent."""
        return len(self._items) + sum(map(len, self._unsent))

    @property
    def frames(self) -> int:
        """Frames that are made and not sent, for lack of room."""
        return len(self._unsent)

    def add(self, item: Any, settings: Settings) -> bool:
        """Put one item, now or soon; False if there is no room, or the queue is closed.

        Raises E509, perhaps because of an earlier item, which is in the error's `items`: this one was not put then.
        """
        with self._lock:
            if self._failed is not None:
                error, self._failed = self._failed, None
                raise error
            if self._ring.closed or self._ended:
                return False
            now = time.monotonic()
            lone = settings.adaptive and now - self._sent_at >= _GAP_S
            is_small = _fits_a_place(item)
            for _ in self.room if is_small else ():
                self.append(item)
                if lone and self._ring.getting.waits[0]:
                    self._send()
                return True
            is_flood = bool(self._items) or not lone
            if not self._send():
                return False
            if is_flood and is_small and settings.batch_size > 1 and self._reserve(settings):
                next(self.room)
                self.append(item)
                return True
            if not self._ring.put(pack(item, by_value=self._by_value)):
                return False
            self._sent_at = now
            self.sent += 1
            return True

    def send(self) -> bool:
        """Put what waits into the ring; False if it has no room for the bytes."""
        if not self._items and not self._unsent:
            return True
        with self._lock:
            return self._send()

    def settle(self) -> bool:
        """The same, and give back the places that are left. False if something is left all the same."""
        with self._lock:
            sent = self._send()
            unused = sum(1 for _ in self.room)
            if unused and self._ring.release(unused):
                self._held -= unused
            elif unused:
                self.room = repeat(None, unused)
            return sent and not self._held

    def end(self, timeout_s: float) -> None:
        """Settle for good, and end the thread. Waits for room for the bytes of what is left. Raises E515 in vain."""
        until = time.monotonic() + timeout_s
        self._ring.give_back()
        while not self.settle() and self._unsent and (left_s := until - time.monotonic()) > 0:
            self._ring.putting.expect()
            if not self.settle():
                self._ring.putting.bell.wait(left_s)
        with self._lock:
            self._ended = True
            lost = [item for items in self._unsent for item in items]
            failed = self._failed
        if self._thread is not None:
            self._peers.bell.ring()
        if failed is not None:
            raise failed
        if lost:
            what = f"{len(lost)} items could not leave this process: there was no room for them in time"
            raise QueueError("E515", what, try_="get items before the last producer ends, or wait_for_pending_puts()")

    def settle_server(self, timeout_s: float, *, items: bool = False) -> None:
        """Have the server, if there is one, settle with other machines; with `items` because there are none here."""
        if (server := self.server) is not None:
            server.settle(timeout_s, items=items)

    def watch(self) -> None:
        """Answer calls, from now on."""
        if self._thread is None and not self._ended:
            self._thread = threading.Thread(target=self._watch, name="sage-queue", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        bell = self._peers.bell
        while True:
            bell.expect()
            if self._ended:
                return
            self._sleeps = not self._held
            if self._sleeps:
                called = bell.wait(None) and not self._held  # else places were reserved: the time begins
            else:
                left_s = self._sent_at + self._linger_s - time.monotonic()
                called = bell.wait(left_s if left_s > 0 else self._linger_s)
                if called or time.monotonic() - self._sent_at >= self._linger_s:  # else all that waits is younger
                    self.settle()
            if called and not self._ended:
                self._ring.give_back()
                wanted = not self._ring.depth() and not self._peers.is_only_consumer()  # or who calls wants places
                self.settle_server(_SERVER_S, items=wanted)

    # --- all that follows is called under the lock ---

    def _reserve(self, settings: Settings) -> int:
        count = settings.batch_size
        granted = self._ring.reserve_share(min(count, self._per_frame) if settings.adaptive else count)
        if granted:
            self._linger_s = settings.linger_ms / 1000
            self._held += granted
            self.room = repeat(None, granted)
            if self._thread is None:
                self.watch()
            elif self._sleeps:
                self._sleeps = False
                self._peers.bell.ring()
        return granted

    def _send(self) -> bool:
        if count := len(self._items):
            self._unsent.append(list(starmap(self._pop, repeat((), count))))
        while self._unsent:
            items = self._unsent[0]
            frame = pack_many(items, by_value=self._by_value)
            if len(frame.data) > LARGE_BYTES or frame.buffers:
                if len(items) > 1:
                    self._unsent[0] = items[len(items) // 2 :]
                    self._unsent.appendleft(items[: len(items) // 2])
                    continue
                frame = pack(items[0], by_value=self._by_value)
            try:
                if not self._ring.put(frame, held=True):
                    return False
            except QueueError as error:  # larger than all that may be in the queue, or the queue is at its end
                error.items = items
                self._failed = error
                self._held -= frame.items
                self._ring.release(frame.items)
            else:
                self._account(frame)
            self._unsent.popleft()
        return True

    def _account(self, frame: Frame) -> None:
        self._held -= frame.items
        self.sent += frame.items
        self._sent_at = time.monotonic()
        self._per_frame = max(1, frame.items * _FRAME_BYTES // (frame.size_bytes + 1))


def _fits_a_place(item: Any) -> bool:
    return sys.getsizeof(item.data if type(item) is Frozen else item) <= PLACE_BYTES
