"""The queue between processes of one machine: a ring in a file that lives in memory. Linux only."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sage.errors import QueueError
from sage.queues import handles, shared_memory_file
from sage.queues.frames import LARGE_BYTES, NUMBERS, SHORT, TEXTS, Frame
from sage.queues.gathering import Gathering
from sage.queues.mapping import Mapping
from sage.queues.peers import CONSUMER, PRODUCER, Peers, give_up_ownership
from sage.queues.queue import DEFAULT_BATCH_SIZE, Full, Item, Queue, QueueStats, closed_error, deadline_of
from sage.queues.ring import Ring
from sage.queues.ring_reading import Unreadable
from sage.queues.segments import Segments
from sage.queues.serving import Settles
from sage.queues.shared_memory_putting import Putting
from sage.queues.waiting import SETTLE_S, Waiting

_LEAVE_S = 1.0
_live: weakref.WeakSet[SharedMemoryQueue[Any]] = weakref.WeakSet()


class Address(Protocol):
    """What a handle needs to know of its descriptor."""

    @property
    def queue_id(self) -> str: ...

    @property
    def maxsize(self) -> int | None: ...

    @property
    def max_bytes(self) -> int: ...

    @property
    def by_value(self) -> bool: ...

    @property
    def path(self) -> Path: ...

    def open(self) -> Queue[Any]: ...


class SharedMemoryQueue(Queue[Item]):
    """This process's handle.

    Items put one by one in quick succession are gathered: they go into the shared ring when `batch_size` of them are
    there, fewer where they are large; when one comes after a pause; when they are `linger_ms` old; when this process
    waits, forks or ends; and whenever another process would otherwise be told something that is not so (`Full`,
    `Empty`, a size). With `batch_size` 1, which may take `linger_ms` to have its effect, an item is in the ring when
    its put returns. An item is pickled when it is put, or cannot change: it arrives as it was then.

    A process that is killed takes with it what it had gathered, and nothing else. One that is stopped keeps it, and the
    others go on without it after a tenth of a second.

    Large arrays arrive as views of the queue's memory, which is used again when the last view is gone.
    """

    def __init__(self, descriptor: Address, mapping: Mapping, *, is_owner: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        memory, fd = mapping.memory, mapping.fd
        self._peers = Peers(memory, fd, descriptor.queue_id)
        segments = Segments(memory, fd, mapping.area, self._peers, descriptor.max_bytes)
        self._ring = Ring(memory, self._peers, segments, descriptor.max_bytes)
        self._calls, self._room_wanted = self._ring.calls, self._ring.putting.waits
        self._gathering = Gathering(self._ring, self._peers, by_value=descriptor.by_value)
        self._waiting = Waiting(self._ring, self._peers, self._gathering, descriptor.queue_id)
        self._putting = Putting(self._ring, self._gathering, self._waiting, by_value=descriptor.by_value)
        self._batch_gets = 0
        self._produces = self._consumes = False
        self._mapping = mapping
        self._be_here(is_owner=is_owner)
        _live.add(self)

    def _be_here(self, *, is_owner: bool) -> None:
        """This process has the slot, and gives it up when it ends."""
        self._process = os.getpid()
        path = self._descriptor.path if is_owner else None
        self._leave = weakref.finalize(self, _leave, self._gathering, self._peers, self._mapping, self._process, path)
        if (processes := sys.modules.get("multiprocessing.util")) is not None:
            processes.Finalize(self, self._leave, exitpriority=0)  # its forked children end without `atexit`

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._descriptor).open, (self._descriptor,)

    @property
    def maxsize(self) -> int | None:
        return self._descriptor.maxsize

    @property
    def closed(self) -> bool:
        return self._ring.closed or not self._leave.alive

    def qsize(self) -> int:
        self._waiting.settle()
        return self.size()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        kind: type = type(item)
        is_small = len(item) <= SHORT if kind in TEXTS else kind in NUMBERS  # type: ignore[arg-type]
        if is_small and not self._calls[0]:
            gathering = self._gathering
            for _ in gathering.room:  # a step of a C iterator: what `next` does, for a tenth of its price
                gathering.append(item)
                return
        self._become(PRODUCER, [item])
        self._putting.put(item, self, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        for item, _ in self._ring.hand.steps:
            if self._room_wanted[0]:
                self._ring.putting.announce()
            return item  # type: ignore[no-any-return]
        return self._get_slowly(block, timeout)

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        rest = list(items)
        if not self._produces:
            self._become(PRODUCER, rest)
        self._putting.put_batch(rest, block, timeout)

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        lists = self._ring.lists
        for items, _ in lists.steps if count == lists.each else ():
            if self._room_wanted[0]:
                self._ring.putting.announce()
            self._batch_gets += 1
            return items  # type: ignore[no-any-return]
        return self._get_batch_slowly(count, timeout)

    def flush(self, timeout: float | None = None) -> None:
        self.wait_for_pending_puts(timeout)

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        """Raises `QueueBroken` where there is no room and nobody left who would make some."""
        if self._gathering.send():
            return True
        try:
            self._waiting.until_room(self._gathering.send, deadline_of(timeout, time.monotonic()), in_spite_of_end=True)
        except Full:
            return False
        return True

    def get_stats(self) -> QueueStats:
        """Puts, gets and bytes are those of this handle; `depth` is that of the queue, but for what others gather."""
        gathered = self._gathering.size
        return QueueStats(
            total_puts=self._putting.puts + self._gathering.sent + gathered,
            total_gets=self._ring.got - self._ring.left,
            batch_puts=self._putting.batches,
            batch_gets=self._batch_gets,
            avg_batch_size=self._putting.batch_items / max(1, self._putting.batches),
            pending_batches=self._gathering.frames,
            buffer_size=gathered,
            bytes_in=self._ring.bytes_in,
            bytes_out=self._ring.bytes_out,
            put_wait_s=self._waiting.for_room.seconds,
            get_wait_s=self._waiting.for_items.seconds,
            depth=self.size() + gathered,
        )

    def close(self) -> None:
        if self._leave.alive:
            self._gathering.settle()
            self._ring.close()
            self._gathering.settle_server(SETTLE_S)
            self._peers.call_all()  # others may serve it too

    def detach(self) -> None:
        """May wait a second for room for what this process has gathered; raises E515 if that was in vain."""
        self._produces = self._consumes = False
        handles.forget(self)
        self._leave()

    # --- for a server that lets other machines reach the queue: see serving.py ---

    def size(self) -> int:
        return self._ring.depth() + self._ring.claims().away

    @property
    def max_bytes(self) -> int:
        """How many bytes fit."""
        return self._descriptor.max_bytes

    def free_bytes(self) -> int:
        small = self._ring.free_small_bytes()
        return small if small < LARGE_BYTES else self._ring.free_bytes()

    def attach_server(self, server: Settles) -> None:
        self._gathering.server = server
        self._gathering.watch()

    def detach_server(self, server: Settles) -> None:
        if self._gathering.server is server:
            self._gathering.server = None
            self._ring.putting.announce()
            self._ring.getting.announce()

    def reserve(self, count: int) -> int:
        self._become(PRODUCER)
        if self.closed:
            raise closed_error(self._descriptor.queue_id)
        return self._ring.reserve(count)

    def release(self, count: int) -> None:
        if count:
            self._ring.release(count)

    def put_frame(self, frame: Frame) -> bool:
        if not self._ring.put(frame, held=True):
            return False
        self._putting.puts += frame.items
        return True

    def take_frames(self, count: int) -> list[Frame]:
        self._become(CONSUMER)
        closed = self._ring.closed
        claims = self._ring.claims()
        frames = self._ring.get_frames(count)
        if not frames and closed:
            is_over = self._waiting.is_settled(claims, self._ring.getting)
            if is_over and (self._ring.claims().away or self._ring.end()):  # what is away may come back
                raise closed_error(self._descriptor.queue_id)
            self._waiting.call(claims)
        return frames

    def confirm(self, count: int) -> None:
        if count:
            self._ring.confirm(count)

    def put_back(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        for index, frame in enumerate(frames):
            if not self._ring.put_back(frame):
                return frames[index:]
        return ()

    def is_wanted(self) -> bool:
        if self._waiting.for_items.now:
            return True
        return bool(self._calls[0]) and not self._peers.is_only_consumer()

    def wait_for_room(self, timeout_s: float, is_enough: Callable[[bool], bool] = bool) -> None:
        ring = self._ring
        self._waiting.pause(ring.putting, lambda: self.closed or is_enough(ring.free_items() > 0), timeout_s)

    def wait_for_items(self, timeout_s: float) -> None:
        self._waiting.pause(self._ring.getting, lambda: self.closed or self._ring.depth() > 0, timeout_s)

    # --- putting and getting what is not the usual ---

    def _become(self, role: int, items: Sequence[Item] = ()) -> None:
        """This process is a producer or a consumer, if it was not."""
        if self._produces if role == PRODUCER else self._consumes:
            return
        if not self._leave.alive:
            raise closed_error(self._descriptor.queue_id, items)
        if self._process != os.getpid():
            self._peers.enter()
            self._be_here(is_owner=False)
        self._peers.take_role(role)
        self._produces |= role == PRODUCER
        self._consumes |= role == CONSUMER

    def _get_slowly(self, block: bool, timeout: float | None) -> Item:
        self._become(CONSUMER)
        try:
            taken = self._ring.get()
            if not taken:
                _send_all()
                taken = self._waiting.until_items(self._ring.get, block, timeout)
        except Unreadable as error:
            raise self._unreadable(error) from error.__cause__
        if self._ring.on_loan:
            self._gathering.watch()
        return taken[0]  # type: ignore[no-any-return]

    def _get_batch_slowly(self, count: int, timeout: float | None) -> list[Item]:
        if count < 1:
            raise ValueError("'count' must be at least 1")
        self._become(CONSUMER)
        try:
            items: list[Item] = self._ring.get_many(count)
            if not items:
                _send_all()
                items = self._waiting.until_items(partial(self._ring.get_many, count), True, timeout)
        except Unreadable as error:
            raise self._unreadable(error) from error.__cause__
        if self._ring.on_loan:
            self._gathering.watch()
        self._batch_gets += 1
        return items

    def _unreadable(self, error: Unreadable) -> QueueError:
        what = f"{error.count} items cannot be unpickled in this process and are dropped"
        return QueueError("E509", what, at=f"queue {self._descriptor.queue_id}")

    # --- forks ---

    def before_fork(self) -> None:
        """A forked child has copies of all this. It must hold nothing."""
        if self._leave.alive and self._process == os.getpid():  # else the slot is another handle's
            self._gathering.settle()
            self._ring.give_back()

    def begin_in_child(self) -> None:
        """Nothing here is the child's own. It takes a slot when it uses the queue."""
        self._gathering.begin()
        self._waiting.begin()
        self._ring.clear_hand()
        self._produces = self._consumes = False


def _leave(gathering: Gathering, peers: Peers, mapping: Mapping, process: int, path: Path | None) -> None:
    """The end of a handle. A child that was forked with a copy of it has nothing to give back."""
    if os.getpid() != process:
        return
    try:
        gathering.end(_LEAVE_S)
    finally:
        peers.leave()
        if path is not None:
            shared_memory_file.remove(mapping.fd, path)
            give_up_ownership(mapping.fd)


def _send_all() -> None:
    """What this process put may be what others wait for, before they answer."""
    for queue in list(_live):
        queue._gathering.send()


def _before_fork() -> None:
    for queue in list(_live):
        queue.before_fork()


def _in_child() -> None:
    for queue in list(_live):
        queue.begin_in_child()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
