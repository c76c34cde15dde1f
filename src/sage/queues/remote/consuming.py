"""The consuming end of a queue on another machine: the server sends as many items as this end said that it can take.

That is one for each caller who waits, and while items are got quickly, those of the next two round trips.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sage.errors import QueueBroken, QueueError
from sage.queues.frames import Frame, pack_many, unpack
from sage.queues.queue import Empty, closed_error, deadline_of
from sage.queues.remote.link import Link
from sage.queues.remote.messages import Ask, Demand, Returned
from sage.queues.remote.pace import Pace
from sage.queues.remote.producing import GRACE_S
from sage.queues.waited import Waited

_MOST = 1 << 17
_TELL_S = 0.005
_IDLE_S = 0.05
"""Who asks for nothing for so long is sent nothing ahead: others may want it."""
_REFERENCE = b"ObjectRef"  # to an object of Ray's: handed over once, when it is unpickled
_LEFT_ALONE_S = 0.2
_LATE_S = 0.5  # who is asked so long after the last time was stopped, or there was nothing to ask for
_NEVER = float("inf")


class Consumer:
    """Not for users: `RemoteQueue` is."""

    def __init__(self, link: Link, port: int, queue_id: str, numbers: Iterator[int], *, by_value: bool) -> None:
        self._link = link
        self._port = port
        self._queue_id = queue_id
        self._numbers = numbers
        self._by_value = by_value
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[Any] = deque()
        self._frames: deque[Frame] = deque()
        self._framed = 0  # items in them
        self._own_puts = 0  # of this process, when the server was last asked for all it has
        self._received = self._allowed = self._told = 0  # items, ever
        self._tell_at = _NEVER
        self._asked_at = 0.0
        self._given_back = 0  # items, ever
        self._got_when_asked = -1  # for items that others wait for
        self._asked_last_at = self._left_alone_since = 0.0
        self._waiting = 0  # items that callers wait for
        self._callers = 0
        self._questions: set[int] = set()  # that were not answered
        self._ended = False
        self._broken: QueueBroken | None = None
        self._pace = Pace(0, _MOST)
        self.batches = self.bytes = 0
        self.waited = Waited()

    @property
    def got(self) -> int:
        """Items that callers got, ever."""
        return self._done - self._given_back

    @property
    def _done(self) -> int:
        """Items that are not here any more, ever: got, or given back."""
        return self._received - self._framed - len(self._items)

    # --- for users' threads ---

    def get(self, block: bool, timeout: float | None) -> Any:
        with self._lock:
            if len(self._items) > 1:
                return self._items.popleft()
            return self._take(1, block, timeout)[0]

    def get_batch(self, count: int, timeout: float | None, own_puts: int) -> list[Any]:
        """`own_puts`: how many items this process put ever; those are not to be missed."""
        if count < 1:
            raise ValueError("'count' must be at least 1")
        with self._lock:
            self.batches += 1
            return self._take(count, True, timeout, own_puts)

    def _take(self, count: int, block: bool, timeout: float | None, own_puts: int = 0) -> list[Any]:
        if not self._items and not self._frames:
            started = time.monotonic()
            with self.waited:
                self._wait(count, deadline_of(timeout, started) if block else started)
        missing = count - self._framed - len(self._items)
        if missing > 0 and (self._allowed == self._received or own_puts > self._own_puts):
            self._own_puts = own_puts
            self._wait_for_more(missing)
        found = self._found(count)
        self._go_on()
        return found

    def _found(self, count: int) -> list[Any]:
        """Up to `count` of the items that are here."""
        found: list[Any] = []
        while len(found) < count and (self._items or self._frames):
            if not self._items:
                items = self._opened(drop=not found)
                if not items:
                    break
                if not found and len(items) <= count:
                    found = items
                    continue
                self._items.extend(items)
            elif len(self._items) <= count - len(found):
                found.extend(self._items)
                self._items.clear()
            else:
                found.extend(self._items.popleft() for _ in range(count - len(found)))
        return found

    def _opened(self, *, drop: bool) -> list[Any]:
        """The items of the next frame. One that cannot be unpickled is lost; without `drop` it stays, for the next."""
        frame = self._frames.popleft()
        self._framed -= frame.items
        try:
            return unpack(frame)
        except Exception as error:
            if not drop:
                self._frames.appendleft(frame)
                self._framed += frame.items
                return []
            what = f"{frame.items} items cannot be unpickled here"
            raise QueueError("E509", what, at=f"queue {self._queue_id}", got=repr(error)) from error

    def _wait(self, count: int, deadline: float | None) -> None:
        """Return when there is something."""
        self._waiting += count
        self._callers += 1
        try:
            while not self._items and not self._frames:
                self._check()
                left = None if deadline is None else deadline - time.monotonic()
                if left is None or left > 0:
                    self._go_on()
                    self._link.expect()
                    self._changed.wait(left)
                elif self._is_empty(count):
                    raise Empty
        finally:
            self._waiting -= count
            self._callers -= 1

    def _is_empty(self, count: int) -> bool:
        """Ask the server: it sends up to `count` items, or knows that there is none."""
        self._ask("items", count, lambda: bool(self._items or self._frames))
        return not self._items and not self._frames

    def _wait_for_more(self, count: int) -> None:
        """The server was not asked for more than is here: have it send up to `count` more, if it has them."""
        if self._broken is None and not self._ended:
            self._ask("more", count, lambda: self._broken is not None or self._ended)

    def _ask(self, what: str, count: int, is_enough: Callable[[], bool]) -> None:
        number = next(self._numbers)
        self._questions.add(number)
        self._link.send(Ask(self._port, number, what, count))
        until = time.monotonic() + GRACE_S
        while number in self._questions and not is_enough() and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)
            if not self._items and not self._frames:
                self._check()

    def _check(self) -> None:
        """Raise what keeps items from coming."""
        if self._broken is not None:
            raise QueueBroken(self._broken.code, self._broken.what, at=self._broken.at)
        if self._ended:
            raise closed_error(self._queue_id)

    def _go_on(self) -> None:
        """Tell the server when enough was got, or more can be taken."""
        here = self._framed + len(self._items)
        done = self._received - here
        now = time.monotonic()
        self._pace.note(done - self._given_back, now, self._link.round_trip_s)
        wanted = max(self._waiting, self._pace.ahead)
        coming = here + self._allowed - self._received
        if coming < self._waiting or coming < wanted - wanted // 4:
            self._allowed += wanted - coming
            self._asked_at = now
            self._tell(done + (0 if here else self._callers))
            self._link.wake_by(now + _IDLE_S)
        elif done > self._told:
            if not here:
                self._tell(done)
            elif self._tell_at == _NEVER:
                self._tell_at = now + _TELL_S
                self._link.wake_by(self._tell_at)

    def _tell(self, done: int) -> None:
        self._told = done
        self._tell_at = _NEVER
        self._link.send(Demand(self._port, self._allowed, done))

    def _give_back(self) -> None:
        """Return what is here, the oldest first."""
        for frame in (*self._packed_again(), *self._frames):
            message = Returned(self._port, frame.items, frame.many, len(frame.buffers))
            self._link.send(message, (frame.data, *frame.buffers))
            self._given_back += frame.items
        self._frames.clear()
        self._framed = 0
        self._allowed = self._received
        self._tell(self._done)

    def _packed_again(self) -> list[Frame]:
        """What was unpickled here and is to be returned; what cannot be pickled again stays."""
        if not self._items:
            return []
        try:
            frame = pack_many(list(self._items), by_value=self._by_value)
        except QueueError:
            return []
        if _REFERENCE in frame.data:
            return []
        self._items.clear()
        return [frame]

    def withdraw(self) -> bool:
        """Want nothing any more; whether there is, or may come, something that nobody gets here."""
        with self._lock:
            if self._broken is not None or not self._allowed:
                return False
            is_left = self._allowed > self._received or bool(self._items or self._frames)
            self._allowed = self._received
            self._tell(self._done)
            return is_left

    def give_back(self) -> None:
        """Return what is here."""
        with self._lock:
            if self._items or self._frames:
                self._give_back()

    # --- for the link's thread ---

    def delivered(self, frame: Frame) -> None:
        with self._lock:
            self._frames.append(frame)
            self._framed += frame.items
            self._received += frame.items
            self._allowed = max(self._allowed, self._received)
            self.bytes += frame.size_bytes
            if self._callers:
                self._changed.notify(min(frame.items, self._callers))

    def answered(self, number: int) -> None:
        """What was asked for was sent before. What was demanded and not sent is not demanded any more."""
        with self._lock:
            if number in self._questions:
                self._questions.remove(number)
                self._allowed = self._received
                self._told = min(self._told, self._received)
                self._changed.notify_all()

    def ended(self) -> None:
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def recalled(self, *, items: bool, at_once: bool) -> int:
        """How many items are not here any more; the server is about to hear it.

        With `items` others wait for some, and what is here is returned: `at_once`, for else they would be told that
        there is none, or where callers get none for a while.
        """
        with self._lock:
            here = bool(self._items or self._frames)
            if items and here and (at_once or self._is_left_alone(time.monotonic())):
                self._give_back()
            elif items and at_once:
                self._tell(self._done + self._callers)  # the server sends nothing before
            self._told = max(self._told, self._done)
            return self._done

    def _is_left_alone(self, now: float) -> bool:
        """Whether nobody gets anything here, although this process runs."""
        if self.got != self._got_when_asked or now - self._asked_last_at > _LATE_S:
            self._left_alone_since = now
        self._got_when_asked, self._asked_last_at = self.got, now
        return not self._callers and self._told <= self._done and now - self._left_alone_since >= _LEFT_ALONE_S

    def tick(self, now: float) -> float:
        with self._lock:
            is_idle = now - self._asked_at > _IDLE_S and not self._callers and self._allowed > self._received
            if is_idle:
                self._allowed = self._received
            if is_idle or now >= self._tell_at:
                self._tell(self._done)
            return min(self._tell_at, now + _IDLE_S if self._allowed > self._received else _NEVER)

    def is_waiting(self) -> bool:
        return self._callers > 0

    def broken(self, error: QueueBroken) -> None:
        with self._lock:
            self._broken = self._broken or error
            self._changed.notify_all()
