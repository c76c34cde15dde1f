"""A queue whose owner is another process, perhaps on another machine."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from sage.errors import QueueBroken, QueueError
from sage.queues import handles
from sage.queues.queue import DEFAULT_BATCH_SIZE, BatchFull, Full, Item, Queue, QueueStats
from sage.queues.remote.consuming import Consumer
from sage.queues.remote.link import Link, release
from sage.queues.remote.messages import (
    Accepted,
    Answer,
    Ask,
    Ended,
    Grant,
    Items,
    Message,
    Recall,
    Refused,
    Rejected,
    Settled,
    frame_of,
)
from sage.queues.remote.producing import Producer
from sage.queues.remote.transport import Parts

_EXIT_S = 5.0
_ANSWER_S = 10.0
_STATS_S = 0.25
_LEAVE_S = 1.0


class RemoteQueue(Queue[Item]):
    """A handle to the queue `queue_id` of the server at the other end of `link`. It is an `End` of that link.

    Items put one by one are gathered (see `producing`). What cannot be delivered is raised by a later call to put,
    `flush`, `wait_for_pending_puts` or `close`, as a `QueueError` E509 with the `items`; what was put beside them is
    delivered. When the owner is gone, calls raise `QueueBroken`; its `items` are those that are perhaps not in the
    queue.

    To a consumer that gets quickly items are sent ahead, as many as it gets in two round trips. They count in `qsize`
    and take up room until it gets them, and are lost with its process. Where others wait for items, those that it does
    not get for a fifth of a second are theirs.
    """

    def __init__(self, link: Link, queue_id: str, *, by_value: bool = False) -> None:
        """Raises `QueueError` E504 where the server has no such queue."""
        super().__init__()
        self._link = link
        self._queue_id = queue_id
        self._numbers = itertools.count(1)
        self._port = link.new_port()
        self._producer = Producer(link, self._port, queue_id, self, self._numbers, by_value=by_value)
        self._consumer = Consumer(link, self._port, queue_id, self._numbers, by_value=by_value)
        self._lock = threading.Condition()
        self._answers: dict[int, Answer | None] = {}
        self._closed = False
        self._leaving = self._detached = False
        self._broken: QueueBroken | None = None
        link.add(self._port, self)  # whole, for the link's thread asks it from now on
        try:
            attached = link.attach(self._port, queue_id)
        except BaseException:
            release(link)
            raise
        self._maxsize = attached.maxsize
        self._producer.limit(attached.maxsize, attached.max_bytes)
        _all.add(self)

    @property
    def maxsize(self) -> int | None:
        return self._maxsize

    @property
    def closed(self) -> bool:
        return self._closed or self._ask("size").closed

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        try:
            self._producer.put(item, block, timeout)
        except BatchFull:
            raise Full from None

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        self._producer.put_batch(items, block, timeout)

    def put_whole(self, items: list[Item]) -> None:
        """Put all `items`, one after the other, or none and raise `Full`. Waits for nothing but the owner's answer."""
        try:
            self._producer.put_whole(items)
        except BatchFull:
            raise Full from None

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        self._producer.hurry()
        return self._consumer.get(block, timeout)  # type: ignore[no-any-return]

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        return self._consumer.get_batch(count, timeout, own_puts=self._producer.hurry())

    def qsize(self) -> int:
        return self._ask("size").count

    def flush(self, timeout: float | None = None) -> None:
        self._producer.flush()

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        return self._producer.wait_until_accepted(timeout)

    def get_stats(self) -> QueueStats:
        """Puts and gets are those of this handle; `depth` is of the queue, 0 where its owner does not answer."""
        producer, consumer = self._producer, self._consumer
        depth = 0
        if not self._detached:
            with suppress(QueueError):
                depth = self._ask("depth", _STATS_S).count
        pending, buffered = producer.pending()
        return QueueStats(
            total_puts=producer.puts + buffered,
            total_gets=consumer.got,
            batch_puts=producer.batches,
            batch_gets=consumer.batches,
            avg_batch_size=producer.batch_items / producer.batches if producer.batches else 0.0,
            pending_batches=pending,
            buffer_size=buffered,
            bytes_in=producer.bytes,
            bytes_out=consumer.bytes,
            put_wait_s=producer.waited.seconds,
            get_wait_s=consumer.waited.seconds,
            depth=depth,
        )

    def close(self) -> None:
        with self._lock:
            if self._closed or self._detached:
                return
            self._closed = True
        self._producer.close()
        if self._broken is None:
            with suppress(QueueBroken):
                self._ask("close")
        self._producer.flush()  # raises what could not be delivered

    def detach(self) -> None:
        """Raises E509 too, for what could not be delivered. Where the owner is gone, nothing."""
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
        self._producer.close()
        lost = 0
        if self._consumer.withdraw() or self._producer.unaccepted:
            try:
                self._ask("depth", _LEAVE_S)  # all that was sent, either way, is there before the answer
            except QueueError:
                lost = self._producer.unaccepted
            self._consumer.give_back()
        self._detached = True
        self._consumer.ended()
        self._link.detach(self._port)
        _all.discard(self)
        handles.forget(self)
        release(self._link)
        if lost and self._broken is None:
            what = f"{lost} items could not leave this process: the owner did not answer in time"
            raise QueueError("E515", what, at=f"queue {self._queue_id}", try_="call wait_for_pending_puts() before")
        self._producer.flush()

    def _ask(self, what: str, patience_s: float = _ANSWER_S) -> Answer:
        """Raises `QueueBroken` where no answer comes."""
        self._producer.hurry()
        with self._lock:
            number = next(self._numbers)
            self._answers[number] = None
            self._link.send(Ask(self._port, number, what))
            until = time.monotonic() + patience_s
            try:
                while (answer := self._answers[number]) is None:
                    left = until - time.monotonic()
                    if self._broken is not None or left <= 0 or self._detached:
                        raise self._broken or QueueBroken("E506", "the owner does not answer", at=self._link.place)
                    self._lock.wait(left)
            finally:
                del self._answers[number]
        return answer

    # --- for the link's thread ---

    def handle(self, message: Message, parts: Parts) -> None:
        match message:
            case Items():
                self._consumer.delivered(frame_of(message, parts))
            case Grant(places=places, size=size):
                self._producer.granted(places, size)
            case Accepted(frames=frames):
                self._producer.accepted(frames)
            case Recall(round=number, places=places, closed=closed, items=items):
                self._closed = self._closed or closed
                back, size = self._producer.recalled(places=places, closed=closed)
                got = self._consumer.recalled(items=items, at_once=number > 0)
                self._link.send(Settled(self._port, number, back, got, size))
                self._producer.settled()
            case Answer():
                self._answered(message)
            case Rejected(frame=frame, code=code, what=what):
                self._producer.rejected(frame, QueueError(code, what, at=f"queue {self._queue_id}"))
            case Ended():
                self._closed = True
                self._consumer.ended()
            case Refused(what=what):
                self.broken(QueueBroken("E506", what, at=f"queue {self._queue_id}"))

    def tick(self, now: float) -> float:
        return min(self._producer.tick(now), self._consumer.tick(now))

    def is_waiting(self) -> bool:
        return bool(self._answers) or self._producer.is_waiting() or self._consumer.is_waiting()

    def broken(self, error: QueueBroken) -> None:
        self._producer.broken(error)
        self._consumer.broken(error)
        with self._lock:
            self._broken = self._broken or error
            self._lock.notify_all()

    def _answered(self, answer: Answer) -> None:
        self._closed = self._closed or answer.closed
        self._producer.answered(answer.number, closed=answer.closed)
        self._consumer.answered(answer.number)
        with self._lock:
            if answer.number in self._answers:
                self._answers[answer.number] = answer
                self._lock.notify_all()


_all: weakref.WeakSet[RemoteQueue[Any]] = weakref.WeakSet()


def _flush_at_exit() -> None:
    """Nothing that was put stays behind when the interpreter ends; or it is told, when all have tried."""
    until = time.monotonic() + _EXIT_S
    with ExitStack() as ends:
        for queue in list(_all):
            ends.callback(_leave, queue, until)


def _leave(queue: RemoteQueue[Any], until: float) -> None:
    try:
        with suppress(QueueBroken):
            queue.wait_for_pending_puts(max(0.0, until - time.monotonic()))
    finally:
        queue.detach()


atexit.register(_flush_at_exit)
os.register_at_fork(after_in_child=_all.clear)
