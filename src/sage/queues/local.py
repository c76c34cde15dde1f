"""The queue between threads of one process: items are passed by reference."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from sage.errors import QueueError
from sage.queues import handles
from sage.queues.bells import Bells, ring, ring_one
from sage.queues.frames import Frame, pack, pack_many, unpack
from sage.queues.local_store import BATCH, SETTLED_S, End, Store
from sage.queues.queue import DEFAULT_BATCH_SIZE, BatchFull, Full, Item, Queue, QueueStats, closed_error, deadline_of
from sage.queues.serving import Settles
from sage.queues.waited import Waited


class LocalQueue(Store[Item], Queue[Item]):
    """A queue for threads. Nothing is copied, so an item must not be changed after it was put.

    Nothing is gathered underneath, and bytes are not counted. A server may let other processes reach it: then items are
    pickled for them, and `flush` tells of those that could not be.
    """

    def __init__(self, maxsize: int | None = 10_000, *, queue_id: str = "local") -> None:
        Store.__init__(self, maxsize, queue_id)
        Queue.__init__(self)
        self._undelivered: list[tuple[QueueError, Sequence[Item]]] = []
        self._batch_puts = self._batch_items = self._batch_gets = 0

    @property
    def maxsize(self) -> int | None:
        return self._maxsize

    @property
    def bytes_in(self) -> int:
        """Put, ever; 0 where they are not counted."""
        return 0

    @property
    def bytes_out(self) -> int:
        """Got, ever."""
        return 0

    @property
    def closed(self) -> bool:
        return self._closed_at is not None

    def qsize(self) -> int:
        self._settle(places=False)
        return self.size()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        for _ in self._room:  # a step of a C iterator: what `next` does, for a tenth of its price
            break
        else:
            self._take_place(item, block, timeout)
        self._append(item)
        if self._getters:
            ring_one(self._getters)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        try:
            item = self._pop() if self._ready else self._next(block, timeout)
        except IndexError:  # another thread was quicker
            item = self._next(block, timeout)
        if self._putters:
            ring_one(self._putters)
        return item

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        rest = list(items)
        count = len(rest)
        with self._lock:
            self._batch_puts += 1
            self._batch_items += count
            is_put = 0 < count <= self._vacant + self._moved - len(self._ready) and self._closed_at is None
            if is_put:
                self._vacant -= count
                self._batches.append(rest)
                self._append(BATCH)
        if not is_put:
            self._put_rest(rest, block, timeout)
        elif self._getters:
            ring(self._getters, count)

    def _put_rest(self, rest: list[Item], block: bool, timeout: float | None) -> None:
        """Put as many at a time as there is room for, until none is left."""
        deadline = deadline_of(timeout if block else 0.0, time.monotonic())
        while rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                rest = rest[self._wait_for_room(partial(self._put_some, rest), rest, block, left) :]
            except Full:
                raise BatchFull(rest) from None

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        if count < 1:
            raise ValueError("'count' must be at least 1")
        with self._lock:
            self._batch_gets += 1
            batch = self._take_items(count) if self._has_items() else []
        if not batch:
            batch = self._wait_for_items(partial(self._take_items, count), True, timeout)
        if self._putters:
            ring(self._putters, len(batch))
        return batch

    def flush(self, timeout: float | None = None) -> None:
        """Raises E509 where items could not be pickled for a consumer in another process, with those `items`; or were
        returned by one, and cannot be unpickled."""
        if self._undelivered:
            failed, self._undelivered = self._undelivered, []
            error = failed[0][0]
            error.items = [item for _, items in failed for item in items]
            raise error

    def get_stats(self) -> QueueStats:
        with self._lock:
            got = self._got() - self._held
            puts = self._taken()
            return QueueStats(
                total_puts=puts,
                total_gets=got,
                batch_puts=self._batch_puts,
                batch_gets=self._batch_gets,
                avg_batch_size=self._batch_items / self._batch_puts if self._batch_puts else 0.0,
                pending_batches=0,
                buffer_size=0,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                put_wait_s=self._putting.waited.seconds,
                get_wait_s=self._getting.waited.seconds,
                depth=puts - got,
            )

    def close(self) -> None:
        with self._lock:
            if self._closed_at is None:
                self._closed_at = time.monotonic()
                self._vacant += sum(1 for _ in self._room)  # from now on every put comes to the lock
        self._settle(places=True)
        self._ring_all()

    def detach(self) -> None:
        self.close()
        handles.forget(self)

    # --- for a server: what `Served` promises ---

    def attach_server(self, server: Settles) -> None:
        self._server = server

    def detach_server(self, server: Settles) -> None:
        if self._server is server:
            self._server = None
            self._ring_all()

    def size(self) -> int:
        with self._lock:
            return self._outstanding() + self._held

    def reserve(self, count: int) -> int:
        with self._lock:
            taken = self._take_room(count)
            if taken < count:
                taken += self._take_room(count - taken)  # those that were meant for puts of this process
            self._reserved += taken
            return taken

    def release(self, count: int) -> None:
        with self._lock:
            self._reserved -= count
            self._vacant += count
        self._ring_after(count)

    def put_frame(self, frame: Frame) -> bool:
        items = self._unpacked(frame)
        with self._lock:
            if self._closed_at is not None and time.monotonic() - self._closed_at > SETTLED_S:
                raise closed_error(self._queue_id)
            return self._accept(frame, items)

    def _unpacked(self, frame: Frame) -> list[Item]:
        try:
            return unpack(frame)
        except Exception as error:
            what = f"{frame.items} items cannot be unpickled by the owner of the queue"
            raise QueueError("E509", f"{what} ({error!r})", at=f"queue {self._queue_id}") from error

    def _accept(self, frame: Frame, items: list[Item]) -> bool:
        """Put what `frame` brought into reserved places; False where that is not possible now. Under the lock."""
        self._reserved -= frame.items
        self._add_batch(items)
        return True

    def take_frames(self, count: int) -> list[Frame]:
        with self._lock:
            items = self._lend(count)
        if not items:
            return []
        try:
            return [pack_many(items)]
        except QueueError:
            return [frame for item in items if (frame := self._packed(item)) is not None]

    def _lend(self, count: int) -> list[Item]:
        """Up to `count` items, which keep their places. Under the lock."""
        items = self._take_items(count)
        self._held += len(items)
        self._vacant -= len(items)
        return items

    def confirm(self, count: int) -> None:
        with self._lock:
            self._held -= count
            self._vacant += count
        self._ring_after(count)

    def put_back(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        for frame in reversed(frames):
            try:
                items = self._unpacked(frame)
            except QueueError as error:
                self._undelivered.append((error, ()))
                self.confirm(frame.items)
                continue
            with self._lock:
                self._take_in(items)
            ring(self._getters, len(items))
        return ()

    def _take_in(self, items: list[Item]) -> None:
        """The opposite of `_lend`."""
        self._held -= len(items)
        self._vacant += len(items)
        self._ready.extendleft(reversed(items))

    def is_wanted(self) -> bool:
        return self._getting.waited.now > 0

    @property
    def max_bytes(self) -> int | None:
        """How many bytes fit; None: they are not counted."""
        return None

    def free_bytes(self) -> int:
        return sys.maxsize

    def wait_for_room(self, timeout_s: float, is_enough: Callable[[bool], bool]) -> None:
        self._wait_for(lambda: self._closed_at is not None or is_enough(self._has_place()), self._putters, timeout_s)

    def wait_for_items(self, timeout_s: float) -> None:
        def is_over() -> object:
            return self._has_items() or (self._closed_at is not None and self._is_over(self._closed_at))

        self._wait_for(is_over, self._getters, timeout_s if self._closed_at is None else SETTLED_S)

    def _wait_for(self, condition: Callable[[], object], bells: Bells, timeout_s: float) -> None:
        """Wait until `condition`, or there is no server that could want it, or the time is over."""

        def is_over() -> object:
            return condition() or self._server is None

        with suppress(Full):
            self._wait(is_over, is_over, End(bells, Waited(), Full), time.monotonic() + timeout_s)
        ring_one(bells)  # what this thread was woken for may be for another

    def _packed(self, item: Item) -> Frame | None:
        """`item` as a frame; None if it cannot be pickled, which is told to whoever flushes."""
        try:
            return pack(item)
        except QueueError as error:
            self._undelivered.append((error, [item]))
            self.confirm(1)
            return None

    def _take_place(self, item: Item, block: bool, timeout: float | None) -> None:
        with self._lock:
            if self._closed_at is None and self._take_credit():
                return
        self._wait_for_room(self._take_credit, [item], block, timeout)
