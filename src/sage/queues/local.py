"""The queue between threads of one process: items are passed by reference.

How it is quick. A single put and a single get take no lock; each step of theirs is one atomic operation of a C object::

    put     takes a credit from `_room`, appends to `_inbox`
    get     pops from `_ready`; where that is empty, it moves items from `_inbox` there, under the lock

A credit is taken before an item becomes visible, and counted as returned when the item is popped. So there are never
more than `maxsize` items, and under the lock it can be told for certain whether it is full or empty (`_outstanding`).
A batch is one entry of `_inbox`, and goes to a `get_batch` as it is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, repeat, starmap
from operator import length_hint
from typing import Any, ClassVar, TypeAlias, TypeVar

from sage.errors import QueueClosed, QueueError
from sage.queues import handles
from sage.queues.descriptor import Place, QueueDescriptor, register_kind
from sage.queues.frames import Frame, pack, pack_many, unpack
from sage.queues.queue import BatchFull, Empty, Full, Item, Queue, QueueStats, closed_error, deadline_of
from sage.queues.serving import Settles

_CREDITS = 1_000
_MOVED = 1_000
_STEP_S = 0.001
_SETTLE_S = 0.25
_SETTLED_S = 1.0  # within it every put is over, but one that was interrupted between two of its operations
_Bells: TypeAlias = deque[Any]
"""Threads that wait, each on a lock of its own."""
_Result = TypeVar("_Result")


_BATCH = object()
"""Stands in the inbox before a list of items that were put together."""


class LocalQueue(Queue[Item]):
    """A queue for threads. Nothing is copied, so an item must not be changed after it was put.

    Nothing is gathered underneath, and bytes are not counted. A server may let other processes reach it: then items are
    pickled for them, and `flush` tells of those that could not be.
    """

    def __init__(self, maxsize: int | None = 10_000, *, queue_id: str = "local") -> None:
        super().__init__()
        self._maxsize = maxsize
        self._queue_id = queue_id
        self._limit = sys.maxsize if maxsize is None else maxsize
        self._lock = threading.Lock()
        self._room = repeat(None, 0)
        self._issued = 0  # credits, ever
        self._inbox: deque[Any] = deque()
        self._batches = 0  # how many of them the inbox holds
        self._ready: deque[Item] = deque()
        self._moved = 0  # items that left the inbox, ever
        self._append, self._pop = self._inbox.append, self._ready.popleft
        self._getters: _Bells = deque()
        self._putters: _Bells = deque()
        self._closed_at: float | None = None
        self._server: Settles | None = None
        self._reserved = 0  # places for items to come from other processes
        self._held = 0  # items that left for other processes, and are not known to be got
        self._undelivered: list[tuple[QueueError, Item]] = []
        self._batch_puts = self._batch_items = self._batch_gets = 0
        self._put_wait_s = self._get_wait_s = 0.0

    @property
    def maxsize(self) -> int | None:
        return self._maxsize

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
            self._wait_for_room(lambda: self._take_room(1), [item], block, timeout)
        self._append(item)
        if self._getters:
            _ring(self._getters)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        try:
            item = self._pop()
        except IndexError:
            item = self._wait_for_items(self._take_item, block, timeout)[0]
        if self._putters:
            _ring(self._putters)
        return item

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        rest = list(items)
        with self._lock:
            self._batch_puts += 1
            self._batch_items += len(rest)
            if self._closed_at is not None:
                done = 0
            elif len(rest) <= self._spare():
                self._issued += len(rest)
                self._add_batch(rest)
                return
            else:
                done = self._put_some(rest)
        if done == len(rest):
            return
        deadline = deadline_of(timeout if block else 0.0, time.monotonic())
        while rest := rest[done:]:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                done = self._wait_for_room(partial(self._put_some, rest), rest, block, left)
            except Full:
                raise BatchFull(rest) from None

    def get_batch(self, count: int = 100, timeout: float | None = None) -> list[Item]:
        if count < 1:
            raise ValueError("'count' must be at least 1")
        with self._lock:
            self._batch_gets += 1
            batch = self._take_items(count)
        if not batch:
            batch = self._wait_for_items(partial(self._take_items, count), True, timeout)
        if self._putters:
            _ring(self._putters, len(batch))
        return batch

    def flush(self, timeout: float | None = None) -> None:
        """Raises E509 with the `items` that could not be pickled for a consumer in another process."""
        if self._undelivered:
            failed, self._undelivered = self._undelivered, []
            error = failed[0][0]
            error.items = [item for _, item in failed]
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
                bytes_in=0,
                bytes_out=0,
                put_wait_s=self._put_wait_s,
                get_wait_s=self._get_wait_s,
                depth=puts - got,
            )

    def close(self) -> None:
        with self._lock:
            if self._closed_at is None:
                self._closed_at = time.monotonic()
                self._issued -= sum(1 for _ in self._room)  # from now on every put comes to the lock
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
            self._issued -= taken
            self._reserved += taken
            return taken

    def release(self, count: int) -> None:
        with self._lock:
            self._reserved -= count
        self._ring_after(count)

    def put_frame(self, frame: Frame) -> bool:
        try:
            items = unpack(frame)
        except Exception as error:
            what = "items cannot be unpickled by the owner of the queue"
            raise QueueError("E509", f"{what} ({error!r})", at=f"queue {self._queue_id}") from error
        with self._lock:
            if self._closed_at is not None and time.monotonic() - self._closed_at > _SETTLED_S:
                raise closed_error(self._queue_id)
            self._reserved -= frame.items
            self._issued += frame.items
            self._add_batch(items)
        return True

    def take_frames(self, count: int) -> list[Frame]:
        with self._lock:
            items = self._take_items(count)
            self._held += len(items)
        if not items:
            return []
        try:
            return [pack_many(items)]
        except QueueError:
            return [frame for item in items if (frame := self._packed(item)) is not None]

    def confirm(self, count: int) -> None:
        with self._lock:
            self._held -= count
        self._ring_after(count)

    def wait_for_room(self, timeout_s: float) -> None:
        self._wait_for(lambda: self._has_room() or self._closed_at is not None, self._putters, timeout_s)

    def wait_for_items(self, timeout_s: float) -> None:
        def is_over() -> object:
            return self._has_items() or (self._closed_at is not None and self._is_over(self._closed_at))

        self._wait_for(is_over, self._getters, timeout_s if self._closed_at is None else _SETTLED_S)

    def _wait_for(self, condition: Callable[[], object], bells: _Bells, timeout_s: float) -> None:
        """Wait until `condition`, or there is no server that could want it, or the time is over."""

        def is_over() -> object:
            return condition() or self._server is None

        with suppress(Full):
            self._wait(is_over, is_over, bells, Full, time.monotonic() + timeout_s)
        _ring(bells)  # what this thread was woken for may be for another

    def _packed(self, item: Item) -> Frame | None:
        """`item` as a frame; None if it cannot be pickled, which is told to whoever flushes."""
        try:
            return pack(item)
        except QueueError as error:
            self._undelivered.append((error, item))
            self.confirm(1)
            return None

    def _settle(self, *, places: bool) -> bool:
        """Whether there is a server that had remote ends settle."""
        server = self._server
        if server is not None:
            server.settle(_SETTLE_S, places=places)
        return server is not None

    def _ring_after(self, count: int) -> None:
        """Places became free."""
        if self._putters:
            _ring(self._putters, count)
        if self._closed_at is not None:
            self._ring_all()

    def _ring_all(self) -> None:
        _ring(self._getters, len(self._getters))
        _ring(self._putters, len(self._putters))

    # --- all that follows up to the waiting is called under the lock ---

    def _taken(self) -> int:
        """Credits taken, ever: items put, and those about to be."""
        return self._issued - length_hint(self._room)

    def _got(self) -> int:
        return self._moved - len(self._ready)

    def _outstanding(self) -> int:
        """Items put and not got. Both numbers grow without the lock; read in this order, 0 means that it was empty."""
        got = self._got()
        return self._taken() - got

    def _spare(self) -> int:
        """Places that nobody has: not an item, not a credit, not a reservation."""
        return self._limit - self._issued - self._reserved - self._held + self._moved - len(self._ready)

    def _take_room(self, count: int) -> int:
        """Up to `count` credits; 0 if the queue was full at some moment of the call. Leaves some for puts to come."""
        if self._closed_at is not None:
            raise closed_error(self._queue_id)
        spare = self._spare()
        if not spare:
            return sum(1 for _ in islice(self._room, count))
        taken = min(count, spare)
        left = 0 if length_hint(self._room) else min(spare - taken, _CREDITS)
        if left:
            self._room = repeat(None, left)
        self._issued += taken + left
        return taken

    def _put_some(self, items: list[Item]) -> int:
        """Put as many of `items` as there is room for."""
        taken = self._take_room(len(items))
        if taken:
            self._add_batch(items if taken == len(items) else items[:taken])
        return taken

    def _add_batch(self, items: list[Item]) -> None:
        """Put `items`, for which there are places; perhaps none."""
        if not items:
            return
        self._inbox.extend((_BATCH, items))
        self._batches += 1
        if self._getters:
            _ring(self._getters, len(items))

    def _take_item(self) -> tuple[Item] | None:
        """The next item; None if there was none at some moment of the call."""
        if not self._ready and len(self._inbox) == 1 and not self._batches:  # as when a thread waits for each item
            self._moved += 1
            return (self._inbox.popleft(),)
        items = self._take_items(1)
        return (items[0],) if items else None

    def _take_items(self, count: int) -> list[Item]:
        """Up to `count` items; none if there were none at some moment of the call."""
        items = self._take_batch(count) if self._batches and not self._ready else []
        while len(items) < count and (self._ready or self._inbox):
            with suppress(IndexError):  # what was popped before it stays in the list
                items.extend(starmap(self._pop, repeat((), count - len(items))))
                break
            if not self._inbox:
                break
            self._make_ready()
        if not items and self._closed_at is not None and self._is_over(self._closed_at):
            raise closed_error(self._queue_id)
        return items

    def _take_batch(self, count: int) -> list[Item]:
        """The next entry of the inbox, which is not empty, if it is a batch that is wanted whole."""
        inbox = self._inbox
        if inbox[0] is not _BATCH or len(inbox[1]) > count:
            return []
        inbox.popleft()
        items: list[Item] = inbox.popleft()
        self._batches -= 1
        self._moved += len(items)
        return items

    def _make_ready(self) -> None:
        """Move items from the inbox, which is not empty, to where getters find them."""
        if not self._batches:
            count = min(len(self._inbox), _MOVED)
            self._ready.extend(starmap(self._inbox.popleft, repeat((), count)))
            self._moved += count
        elif (entry := self._inbox.popleft()) is _BATCH:
            items = self._inbox.popleft()
            self._ready.extend(items)
            self._batches -= 1
            self._moved += len(items)
        else:
            self._ready.append(entry)
            self._moved += 1

    def _is_over(self, closed_at: float) -> bool:
        return self._outstanding() + self._reserved == 0 or time.monotonic() - closed_at > _SETTLED_S

    def _has_items(self) -> object:
        return self._inbox or self._ready  # in the order in which items move

    def _has_room(self) -> bool:
        return self._outstanding() + self._reserved + self._held < self._limit

    # --- waiting ---

    def _wait_for_room(self, attempt: Callable[[], int], items: list[Item], block: bool, timeout: float | None) -> int:
        started = time.monotonic()
        deadline = deadline_of(timeout, started) if block else started
        try:
            if self._settle(places=True) and (result := self._attempt(attempt)):
                return result
            return self._wait(attempt, self._has_room, self._putters, Full, deadline)
        except Full:
            if block and self._settle(places=True) and (result := self._attempt(attempt)):
                return result
            raise
        except QueueClosed as error:
            error.items = items
            raise
        finally:
            self._put_wait_s += time.monotonic() - started

    def _wait_for_items(self, attempt: Callable[[], _Result | None], block: bool, timeout: float | None) -> _Result:
        started = time.monotonic()
        deadline = deadline_of(timeout, started) if block else started
        try:
            return self._wait(attempt, self._has_items, self._getters, Empty, deadline)
        except Empty:
            if self._settle(places=False) and (items := self._attempt(attempt)):
                return items
            raise
        finally:
            self._get_wait_s += time.monotonic() - started

    def _attempt(self, attempt: Callable[[], _Result]) -> _Result:
        with self._lock:
            return attempt()

    def _wait(
        self,
        attempt: Callable[[], _Result | None],
        is_worth_another: Callable[[], object],
        bells: _Bells,
        nothing: type[Exception],
        deadline: float | None,
    ) -> _Result:
        """Attempt until it brings something. Whoever makes an attempt worth while looks for bells after it."""
        while True:
            with self._lock:
                result = attempt()
                if result:
                    return result
                left = None
                if deadline is not None or self._closed_at is not None:
                    left = self._left(nothing, deadline)
                    if left <= 0:
                        raise nothing
                bell = threading.Lock()
                bell.acquire()
                bells.append(bell)
            woken = False
            try:
                if not is_worth_another():
                    woken = bell.acquire() if left is None else bell.acquire(timeout=left)
            finally:
                if not woken:
                    _leave(bells, bell)

    def _left(self, nothing: type[Exception], deadline: float | None) -> float:
        """For how long to wait, in seconds. Between the two steps of a put the queue is not empty: the item is due."""
        left = _SETTLED_S if deadline is None else min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
        if left > 0 or left < -_SETTLED_S or nothing is Full or self._outstanding() == 0:
            return left
        return _STEP_S


def _ring(bells: _Bells, count: int = 1) -> None:
    """Wake threads that wait, at most `count`."""
    try:
        for _ in range(count):
            bells.popleft().release()
    except IndexError:  # nobody waits any more
        return


def _leave(bells: _Bells, bell: Any) -> None:
    """Wait no longer. A call that came for this thread meanwhile goes to the next."""
    try:
        bells.remove(bell)
    except ValueError:
        _ring(bells)


@register_kind
class LocalQueueDescriptor(QueueDescriptor):
    """A queue between threads of one process."""

    kind: ClassVar[str] = "local"
    cost: ClassVar[int] = 0
    leaves_process: ClassVar[bool] = False

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        return None if producer == consumer else "the ends are in different processes"

    def _make(self) -> LocalQueue[Any]:
        return LocalQueue(self.maxsize, queue_id=self.queue_id)

    def _attach(self) -> LocalQueue[Any]:
        raise self.missing("it lives in the process that created it")
