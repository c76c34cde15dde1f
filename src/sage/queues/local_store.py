"""What a queue between threads holds, and how its threads wait.

How it is quick. A single put and a single get take no lock; each step of theirs is one atomic operation of a C object::

    put     takes a credit from `_room`, appends to `_inbox`
    get     pops from `_ready`; where that is empty, it moves items from `_inbox` there, under the lock

A credit is taken before an item becomes visible, and counted as returned when the item is popped. So there are never
more than `maxsize` items, and under the lock it can be told for certain whether it is full or empty (`_outstanding`).
A batch is one entry of `_inbox`, a mark; the list goes to a `get_batch` as it is.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice, repeat, starmap
from operator import length_hint
from threading import TIMEOUT_MAX, Lock
from typing import Any, Generic, NamedTuple, TypeVar

from sage.errors import QueueClosed, QueueError
from sage.queues.bells import Bells, hang_up, ring, take_down
from sage.queues.queue import Empty, Full, Item, closed_error, deadline_of
from sage.queues.serving import Settles
from sage.queues.waited import Waited

BATCH = object()
"""Stands in the inbox for the next of the lists of items that were put together."""
SETTLED_S = 1.0
"""Within it every put is over, but one that was interrupted between two of its operations."""
_MOVED = 1_000
_STEP_S = 0.001
_SETTLE_S = 0.25
_Result = TypeVar("_Result")


class End(NamedTuple):
    """Those who wait at one end of a queue."""

    bells: Bells
    waited: Waited
    nothing: type[Exception]
    """What is raised where it was in vain."""


class Store(Generic[Item]):
    """Not for users: `LocalQueue` is."""

    _credits = 1_000
    """How many are left for puts to come, at most."""

    def __init__(self, maxsize: int | None, queue_id: str) -> None:
        self._maxsize = maxsize
        self._queue_id = queue_id
        self._limit = sys.maxsize if maxsize is None else maxsize
        self._lock = Lock()
        self._room = repeat(None, 0)
        self._vacant = (
            self._limit
        )  # less all credits, reserved and held places; items that left the inbox are not added
        self._inbox: deque[Any] = deque()
        self._batches: deque[list[Item]] = deque()  # those that the inbox has marks of
        self._ready: deque[Item] = deque()
        self._moved = 0  # items that left the inbox, ever
        self._append, self._pop = self._inbox.append, self._ready.popleft
        self._getters: Bells = deque()
        self._putters: Bells = deque()
        self._closed_at: float | None = None
        self._server: Settles | None = None
        self._reserved = 0  # places for items to come from other processes
        self._held = 0  # items that left for other processes, and are not known to be got
        self._getting, self._putting = End(self._getters, Waited(), Empty), End(self._putters, Waited(), Full)

    # --- under the lock ---

    def _taken(self) -> int:
        """Credits taken, ever: items put, and those about to be."""
        return self._limit - self._vacant - self._reserved - self._held - length_hint(self._room)

    def _got(self) -> int:
        return self._moved - len(self._ready)

    def _outstanding(self) -> int:
        """Items put and not got. Both numbers grow without the lock; read in this order, 0 means that it was empty."""
        got = self._got()
        return self._taken() - got

    def _spare(self) -> int:
        """Places that nobody has: not an item, not a credit, not a reservation."""
        return self._vacant + self._moved - len(self._ready)

    def _take_room(self, count: int) -> int:
        """Up to `count` credits; 0 if the queue was full at some moment of the call."""
        if self._closed_at is not None:
            raise closed_error(self._queue_id)
        spare = self._spare()
        if not spare:
            return sum(1 for _ in islice(self._room, count))
        taken = min(count, spare)
        self._vacant -= taken
        return taken

    def _take_credit(self) -> int:
        """The same for one item; leaves some for puts to come."""
        if self._closed_at is not None:
            raise closed_error(self._queue_id)
        spare = self._vacant + self._moved - len(self._ready)
        if not spare:
            return sum(1 for _ in islice(self._room, 1))
        if spare > 1 and not length_hint(self._room):
            left = min(spare - 1, self._credits)
            self._room = repeat(None, left)
            self._vacant -= left
        self._vacant -= 1
        return 1

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
        self._batches.append(items)
        self._append(BATCH)
        if self._getters:
            ring(self._getters, len(items))

    def _take_item(self) -> tuple[Item] | None:
        """The next item; None if there was none at some moment of the call."""
        if not self._ready and not self._batches:
            if len(self._inbox) == 1:  # as when a thread waits for each item
                self._moved += 1
                return (self._inbox.popleft(),)
            if not self._inbox and self._closed_at is None:
                return None
        items = self._take_items(1)
        return (items[0],) if items else None

    def _take_items(self, count: int) -> list[Item]:
        """Up to `count` items; none if there were none at some moment of the call."""
        batches = self._batches
        if batches and not self._ready and self._inbox[0] is BATCH:  # what is usual
            if len(batches[0]) <= count:
                self._inbox.popleft()
                items = batches.popleft()
            else:
                items = batches[0][:count]
                del batches[0][:count]
            self._moved += len(items)
        else:
            items = []
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

    def _make_ready(self) -> None:
        """Move items from the inbox, which is not empty, to where getters find them."""
        if not self._batches:
            count = min(len(self._inbox), _MOVED)
            self._ready.extend(starmap(self._inbox.popleft, repeat((), count)))
            self._moved += count
        elif (entry := self._inbox.popleft()) is BATCH:
            items = self._batches.popleft()
            self._ready.extend(items)
            self._moved += len(items)
        else:
            self._ready.append(entry)
            self._moved += 1

    def _is_over(self, closed_at: float) -> bool:
        return self._outstanding() + self._reserved == 0 or time.monotonic() - closed_at > SETTLED_S

    # --- waiting, without the lock ---

    def _has_items(self) -> object:
        return self._inbox or self._ready  # in the order in which items move

    def _may_get(self) -> object:
        """Whether there are items, or will be none."""
        return self._inbox or self._ready or self._closed_at

    def _has_room(self) -> bool:
        """Whether another attempt to put may succeed where the last one did not."""
        return self._has_place()

    def _has_place(self) -> bool:
        return self._outstanding() + self._reserved + self._held < self._limit

    def _settle(self, *, places: bool, items: bool = False) -> bool:
        """Whether there is a server that had remote ends settle."""
        server = self._server
        if server is not None:
            server.settle(_SETTLE_S, places=places, items=items)
        return server is not None

    def _ring_after(self, count: int) -> None:
        """Places became free."""
        if self._putters:
            ring(self._putters, count)
        if self._closed_at is not None:
            self._ring_all()

    def _ring_all(self) -> None:
        ring(self._getters, len(self._getters))
        ring(self._putters, len(self._putters))

    def _wait_for_room(self, attempt: Callable[[], int], items: list[Item], block: bool, timeout: float | None) -> int:
        """What `attempt` brings at last. Raises `Full`, or `QueueError` with `items`."""
        deadline = None if block and timeout is None else deadline_of(timeout if block else 0.0, time.monotonic())
        try:
            if self._settle(places=True) and (result := self._attempt(attempt)):
                return result
            return self._wait(attempt, self._has_room, self._putting, deadline)
        except Full:
            if block and self._settle(places=True) and (result := self._attempt(attempt)):
                return result
            raise
        except QueueError as error:
            error.items = items
            raise

    def _next(self, block: bool, timeout: float | None) -> Item:
        """The next item, where none is ready."""
        if block and timeout is None and not self._inbox:  # then it is dear to look a first time under the lock
            self._sleep(hang_up(self._getters), self._getting, self._may_get, None)
        with self._lock:
            taken = self._take_item() if self._has_items() else None
        return taken[0] if taken else self._wait_for_items(self._take_item, block, timeout)[0]

    def _wait_for_items(self, attempt: Callable[[], _Result | None], block: bool, timeout: float | None) -> _Result:
        deadline = None if block and timeout is None else deadline_of(timeout if block else 0.0, time.monotonic())
        try:
            return self._wait(attempt, self._has_items, self._getting, deadline)
        except (Empty, QueueClosed):  # perhaps not yet: consumers on other machines may have been sent some ahead
            if self._settle(places=False, items=True) and (items := self._attempt(attempt)):
                return items
            raise

    def _attempt(self, attempt: Callable[[], _Result]) -> _Result:
        with self._lock:
            return attempt()

    def _wait(
        self,
        attempt: Callable[[], _Result | None],
        is_worth_another: Callable[[], object],
        end: End,
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
                    left = self._left(end.nothing, deadline)
                    if left <= 0:
                        raise end.nothing
                bell = hang_up(end.bells)
            self._sleep(bell, end, is_worth_another, left)

    def _sleep(self, bell: Lock, end: End, is_worth_another: Callable[[], object], left_s: float | None) -> None:
        """Until the bell rings, or the time is over; not at all if another attempt may succeed."""
        woken = False
        end.waited.begin()
        try:
            if not is_worth_another():
                woken = bell.acquire() if left_s is None else bell.acquire(timeout=left_s)
        finally:
            end.waited.end()
            if not woken:
                take_down(end.bells, bell)

    def _left(self, nothing: type[Exception], deadline: float | None) -> float:
        """For how long to wait, in seconds. Between the two steps of a put the queue is not empty: the item is due."""
        left = SETTLED_S if deadline is None else min(deadline - time.monotonic(), TIMEOUT_MAX)
        if left > 0 or left < -SETTLED_S or nothing is Full or self._outstanding() == 0:
            return left
        return _STEP_S
