"""The queue between processes of one machine: a ring in a file that lives in memory. Linux only."""

from __future__ import annotations

import mmap
import os
import re
import secrets
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sage.errors import QueueBroken, QueueError
from sage.queues import handles, shared_memory_file
from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, register_kind
from sage.queues.frames import LARGE_BYTES, PLAIN, Frame, Frozen, pack, pack_list, pack_many
from sage.queues.gathering import Gathering
from sage.queues.peers import CONSUMER, PRODUCER, Peers
from sage.queues.queue import BatchFull, Empty, Full, Item, Queue, QueueStats, closed_error, deadline_of
from sage.queues.ring import HEADER_BYTES, RING_BYTES, UNBOUNDED, Claims, Ring, Side, Unreadable
from sage.queues.serving import Settles

_TOKEN = re.compile(r"[0-9a-f]{32}")
_MANY = 1_000  # items of a batch that are pickled together at most
_WATCH_S = 0.5  # how often those who wait look whether the other end is alive
_SETTLE_S = 0.1  # how long a process may take to give up what it holds, before others go on without it
_CALL_AGAIN_S = 0.005
_LEAVE_S = 1.0
_NAP_S = 50e-6
_Result = TypeVar("_Result")
_live: weakref.WeakSet[SharedMemoryQueue[Any]] = weakref.WeakSet()


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

    def __init__(self, descriptor: SharedMemoryQueueDescriptor, fd: int, *, is_owner: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        memory = mmap.mmap(fd, HEADER_BYTES + RING_BYTES)
        self._peers = Peers(memory, fd, descriptor.queue_id)
        self._ring = Ring(memory, fd, self._peers, descriptor.max_bytes)
        self._calls, self._room_wanted = self._ring.calls, self._ring.putting.waits
        self._gathering = Gathering(self._ring, self._peers, by_value=descriptor.by_value)
        self._puts = self._batch_puts = self._batch_items = self._batch_gets = 0
        self._put_wait_s = self._get_wait_s = 0.0
        self._produces = self._consumes = False
        self._fd = fd
        self._be_here(is_owner=is_owner)
        _live.add(self)

    def _be_here(self, *, is_owner: bool) -> None:
        """This process has the slot, and gives it up when it ends."""
        self._process = os.getpid()
        path = self._descriptor.path if is_owner else None
        self._leave = weakref.finalize(self, _leave, self._gathering, self._peers, self._fd, self._process, path)
        if (processes := sys.modules.get("multiprocessing.util")) is not None:
            processes.Finalize(self, self._leave, exitpriority=0)  # its forked children end without `atexit`

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedMemoryQueueDescriptor.open, (self._descriptor,)

    @property
    def maxsize(self) -> int | None:
        return self._descriptor.maxsize

    @property
    def closed(self) -> bool:
        return self._ring.closed or not self._leave.alive

    def qsize(self) -> int:
        self._settle()
        return self.size()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        if type(item) in PLAIN and not self._calls[0]:
            for _ in self._gathering.room:  # a step of a C iterator: what `next` does, for a tenth of its price
                self._gathering.append(item)
                return
        self._put_slowly(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        for item, _ in self._ring.hand:
            if self._room_wanted[0]:
                self._ring.putting.announce()
            return item  # type: ignore[no-any-return]
        return self._get_slowly(block, timeout)

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        rest = list(items)
        if not self._produces:
            self._become(PRODUCER, rest)
        self._batch_puts += 1
        self._batch_items += len(rest)
        if not 0 < len(rest) <= _MANY or not self._put_together(rest):
            self._put_rest(rest, block, timeout)

    def get_batch(self, count: int = 100, timeout: float | None = None) -> list[Item]:
        if count < 1:
            raise ValueError("'count' must be at least 1")
        if not self._consumes:
            self._become(CONSUMER)
        try:
            items: list[Item] = self._ring.get_many(count)
            if not items:
                items = self._wait_for_items(partial(self._ring.get_many, count), True, timeout)
        except Unreadable as error:
            raise self._unreadable(error) from error.__cause__
        self._batch_gets += 1
        return items

    def flush(self, timeout: float | None = None) -> None:
        self.wait_for_pending_puts(timeout)

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        """Raises `QueueBroken` where there is no room and nobody left who would make some."""
        if self._gathering.send():
            return True
        try:
            self._wait_for_room(self._gathering.send, deadline_of(timeout, time.monotonic()), in_spite_of_end=True)
        except Full:
            return False
        return True

    def get_stats(self) -> QueueStats:
        """Puts, gets and bytes are those of this handle; `depth` is that of the queue, but for what others gather."""
        gathered = self._gathering.size
        return QueueStats(
            total_puts=self._puts + self._gathering.sent + gathered,
            total_gets=self._ring.got - self._ring.left,
            batch_puts=self._batch_puts,
            batch_gets=self._batch_gets,
            avg_batch_size=self._batch_items / self._batch_puts if self._batch_puts else 0.0,
            pending_batches=self._gathering.frames,
            buffer_size=gathered,
            bytes_in=self._ring.bytes_in,
            bytes_out=self._ring.bytes_out,
            put_wait_s=self._put_wait_s,
            get_wait_s=self._get_wait_s,
            depth=self.size() + gathered,
        )

    def close(self) -> None:
        if self._leave.alive:
            self._gathering.settle()
            self._ring.close()
            self._settle_server()
            self._peers.call_all()  # others may serve it too

    def detach(self) -> None:
        """May wait a second for room for what this process has gathered; raises E515 if that was in vain."""
        self._produces = self._consumes = False
        handles.forget(self)
        self._leave()

    # --- for a server that lets other machines reach the queue: see serving.py ---

    def size(self) -> int:
        return self._ring.depth() + self._ring.claims().away

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
        self._puts += frame.items
        return True

    def take_frames(self, count: int) -> list[Frame]:
        self._become(CONSUMER)
        closed = self._ring.closed
        claims = self._ring.claims()
        try:
            frames = self._ring.get_frames(count)
        except Unreadable as error:
            raise self._unreadable(error) from error.__cause__
        if not frames and closed:
            if self._is_settled(claims, self._ring.getting) and self._ring.end():
                raise closed_error(self._descriptor.queue_id)
            self._call(claims)
        return frames

    def confirm(self, count: int) -> None:
        if count:
            self._ring.confirm(count)

    def wait_for_room(self, timeout_s: float) -> None:
        self._pause(self._ring.putting, lambda: self.closed or self._ring.free_items() > 0, timeout_s)

    def wait_for_items(self, timeout_s: float) -> None:
        self._pause(self._ring.getting, lambda: self.closed or self._ring.depth() > 0, timeout_s)

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

    def _put_slowly(self, item: Item, block: bool, timeout: float | None) -> None:
        self._become(PRODUCER, [item])
        now_or_never: Any = item
        if type(item) not in PLAIN:
            frame = pack(item, by_value=self._descriptor.by_value)
            if frame.buffers or len(frame.data) > LARGE_BYTES:
                self._put_alone(frame, item, block, timeout)
                return
            now_or_never = Frozen(bytes(frame.data))
        attempt = partial(self._gathering.add, now_or_never, self._batch_size, self._linger_ms)
        if not attempt():
            self._wait_with(item, attempt, block, timeout)

    def _put_alone(self, frame: Frame, item: Item, block: bool, timeout: float | None) -> None:
        def attempt() -> bool:
            return self._gathering.send() and self._ring.put(frame)

        if not attempt():
            self._wait_with(item, attempt, block, timeout)
        self._puts += 1

    def _put_together(self, items: list[Item]) -> bool:
        """Put all of them as one frame, if they are small and there is room: what is usual."""
        if not self._gathering.send():
            return False
        data = pack_list(items, by_value=self._descriptor.by_value)
        if data is None or not self._ring.put_list(data, len(items)):
            return False
        self._puts += len(items)
        return True

    def _put_rest(self, rest: list[Item], block: bool, timeout: float | None) -> None:
        """Put as many at a time as there is room for, until none is left."""
        deadline: float | None = None
        size = _MANY
        try:
            while rest:
                part = rest if len(rest) <= size else rest[:size]
                try:
                    put = self._put_some(part)
                    if not put:
                        deadline = deadline or deadline_of(timeout if block else 0.0, time.monotonic())
                        put = self._wait_for_room(partial(self._put_some, part), deadline)
                except QueueError as error:
                    if size == 1 or error.code != "E509":
                        raise
                    size = 1  # those before the one at fault are put
                    continue
                self._puts += put
                if put == len(rest):
                    return
                rest = rest[put:]
                size = 1 if size == 1 else min(2 * put, _MANY)
        except Full:
            raise BatchFull(rest) from None
        except QueueError as error:
            error.items = rest
            raise

    def _put_some(self, part: list[Item]) -> int:
        """Put as many items of `part` as there is room for; how many that were."""
        room = self._ring.free_items()
        if room < len(part):
            part = part[: max(room, 0)]
        if not part or not self._gathering.send():
            return 0
        frame = pack_many(part, by_value=self._descriptor.by_value)
        while frame.buffers or len(frame.data) > LARGE_BYTES:
            if len(part) == 1:
                frame = pack(part[0], by_value=self._descriptor.by_value)
                break
            part = part[: len(part) // 2]
            frame = pack_many(part, by_value=self._descriptor.by_value)
        return len(part) if self._ring.put(frame) else 0

    def _get_slowly(self, block: bool, timeout: float | None) -> Item:
        self._become(CONSUMER)
        try:
            taken = self._ring.get() or self._wait_for_items(self._ring.get, block, timeout)
        except Unreadable as error:
            raise self._unreadable(error) from error.__cause__
        if self._ring.on_loan:
            self._gathering.watch()
        return taken[0]  # type: ignore[no-any-return]

    def _unreadable(self, error: Unreadable) -> QueueError:
        what = f"{error.count} items cannot be unpickled in this process and are dropped"
        return QueueError("E509", what, at=self._place)

    @property
    def _place(self) -> str:
        return f"queue {self._descriptor.queue_id}"

    # --- waiting ---

    def _wait_with(self, item: Item, attempt: Callable[[], bool], block: bool, timeout: float | None) -> None:
        try:
            self._wait_for_room(attempt, deadline_of(timeout if block else 0.0, time.monotonic()))
        except QueueError as error:
            error.items = error.items or [item]
            raise

    def _wait_for_room(
        self, attempt: Callable[[], _Result], deadline: float | None, *, in_spite_of_end: bool = False
    ) -> _Result:
        started = time.monotonic()
        try:
            return self._wait(attempt, self._ring.putting, Full, deadline, in_spite_of_end)
        finally:
            self._put_wait_s += time.monotonic() - started

    def _wait_for_items(self, attempt: Callable[[], _Result | None], block: bool, timeout: float | None) -> _Result:
        started = time.monotonic()
        deadline = deadline_of(timeout if block else 0.0, started)
        for queue in list(_live):
            queue._gathering.send()  # what this process put may be what others wait for, before they answer
        try:
            return self._wait(attempt, self._ring.getting, Empty, deadline)
        finally:
            self._get_wait_s += time.monotonic() - started

    def _wait(
        self,
        attempt: Callable[[], _Result | None],
        side: Side,
        nothing: type[Exception],
        deadline: float | None,
        in_spite_of_end: bool = False,
    ) -> _Result:
        """Attempt until it brings something, the queue is at its end, or nobody is left at the other end."""
        watched = time.monotonic()
        if nothing is Full and (deadline is None or deadline - watched > _NAP_S):
            side.bell.nap(_NAP_S)  # a busy consumer need not wake this process for each item
        patience: float | None = None  # until when others may take their time to give up what they hold
        while True:
            side.expect()
            closed = self.closed and not in_spite_of_end  # looked at before the attempt: what was put before is got
            claims = self._ring.claims()
            result = attempt()
            if result:
                return result
            now = time.monotonic()
            if closed or (deadline is not None and now >= deadline):
                settled = self._is_settled(claims, side) and (patience is not None or not claims.away)
                patience = patience or now + _SETTLE_S
                if now >= patience or settled or (closed and nothing is Full):
                    if not closed:
                        raise nothing
                    if nothing is Full or self._ring.end():
                        raise closed_error(self._descriptor.queue_id)
                self._call(claims)
                side.bell.wait(_CALL_AGAIN_S)
                continue
            if now - watched >= _WATCH_S:
                self._watch(CONSUMER if nothing is Full else PRODUCER)
                watched = now
            if nothing is Empty:
                self._ring.call_holders(claims._replace(held=0, away=0))
            elif claims.away:
                self._settle_server()
                self._ring.call_holders(claims._replace(held=0))
            side.bell.wait(_WATCH_S if deadline is None else min(_WATCH_S, deadline - now))

    def _is_settled(self, claims: Claims, side: Side) -> bool:
        """Whether nobody held anything that matters there since `claims` were looked at."""
        now = self._ring.claims()
        if now.held != claims.held or claims.places:
            return False
        return side is self._ring.putting or (now.loan == claims.loan and (not now.loan or self._ring.on_loan))

    def _call(self, claims: Claims) -> None:
        """Have everybody give up what they hold, this process first."""
        self._gathering.settle()
        self._settle_server()
        self._ring.call_holders(claims)

    def _settle_server(self) -> None:
        if (server := self._gathering.server) is not None:
            server.settle(_SETTLE_S)

    def _settle(self) -> None:
        """Wait until what was put before is in the ring; those that do not answer in time keep what they have."""
        claims = self._ring.claims()
        if claims.away:
            self._settle_server()
        if not claims.places:
            return
        until = time.monotonic() + _SETTLE_S
        held = self._peers.held.tolist()
        self._call(claims)
        side = self._ring.putting
        while any(places and places == was for places, was in zip(self._peers.held.tolist(), held, strict=True)):
            if time.monotonic() >= until:
                return
            side.expect()
            self._call(self._ring.claims())
            side.bell.wait(_CALL_AGAIN_S)

    def _pause(self, side: Side, is_worth_another: Callable[[], bool], timeout_s: float) -> None:
        side.expect()
        if is_worth_another():
            return
        if not side.bell.wait(min(timeout_s, _WATCH_S)):
            self._ring.recover()

    def _watch(self, others: int) -> None:
        """Recover what processes that died had; raise if nobody is left at the other end."""
        self._ring.recover()
        process = self._peers.bereaved_of(others)
        if process:
            what = f"the last {'consumer' if others == CONSUMER else 'producer'} died (process {process})"
            raise QueueBroken("E506", what, at=self._place, try_="start another one")

    # --- forks ---

    def before_fork(self) -> None:
        """A forked child has copies of all this. It must hold nothing."""
        self._gathering.settle()
        self._ring.give_back()

    def begin_in_child(self) -> None:
        """Nothing here is the child's own. It takes a slot when it uses the queue."""
        self._gathering.begin()
        self._ring.clear_hand()
        self._produces = self._consumes = False


def _leave(gathering: Gathering, peers: Peers, fd: int, process: int, path: Path | None) -> None:
    """The end of a handle. A child that was forked with a copy of it has nothing to give back."""
    if os.getpid() != process:
        return
    try:
        gathering.end(_LEAVE_S)
    finally:
        peers.leave()
        if path is not None:
            shared_memory_file.remove(fd, path)
        os.close(fd)


def _before_fork() -> None:
    for queue in list(_live):
        queue.before_fork()


def _in_child() -> None:
    for queue in list(_live):
        queue.begin_in_child()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)


@register_kind
@dataclass(frozen=True, kw_only=True)
class SharedMemoryQueueDescriptor(QueueDescriptor):
    """A queue between processes of one machine that run as the same user."""

    kind: ClassVar[str] = "shared_memory"
    cost: ClassVar[int] = 10

    max_bytes: int = 64 * 1024 * 1024
    """How many bytes of large items fit, beside 4 MiB of small ones."""
    by_value: bool = False
    """Whether classes and functions of the script that runs travel along: for consumers that do not have it."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """Names the file. Nobody can guess it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at = f"queue {self.queue_id}"
        check_capacity("max_bytes", self.max_bytes, at=at)
        if type(self.by_value) is not bool:
            raise QueueError("E522", "by_value is not possible", at="$.by_value", expected="true or false")
        if not _TOKEN.fullmatch(str(self.token)):
            raise QueueError("E522", "the token is not possible", at="$.token", expected="32 hexadecimal digits")

    @property
    def path(self) -> Path:
        """The file in memory."""
        return shared_memory_file.path_of(self.token)

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        if producer.machine != consumer.machine:
            return "the ends are on different machines"
        folder = shared_memory_file.FOLDER
        if not sys.platform.startswith("linux") or not os.access(folder, os.W_OK):
            return f"{folder} cannot be written here"
        return None

    def _make(self) -> SharedMemoryQueue[Any]:
        known = [address for address in handles.addresses() if isinstance(address, SharedMemoryQueueDescriptor)]
        shared_memory_file.sweep({address.path for address in known})
        fd = shared_memory_file.make(self.path, self._limit)
        queue: SharedMemoryQueue[Any] = SharedMemoryQueue(self, fd, is_owner=True)
        try:
            shared_memory_file.publish(fd, self.path)  # it gets its name when it is whole
        except FileExistsError:
            queue.detach()
            raise QueueError("E503", "this queue exists already", at=f"queue {self.queue_id}") from None
        return queue

    def _attach(self) -> SharedMemoryQueue[Any]:
        try:
            fd = shared_memory_file.attach(self.path, self._limit)
        except FileNotFoundError:
            raise self.missing("nobody has created it, or its owner has left") from None
        try:
            queue: SharedMemoryQueue[Any] = SharedMemoryQueue(self, fd, is_owner=False)
        except BaseException:
            os.close(fd)
            raise
        if not os.fstat(fd).st_nlink:
            with suppress(QueueError):
                queue.detach()
            raise self.missing("its owner left just now")
        return queue

    @property
    def _limit(self) -> int:
        return UNBOUNDED if self.maxsize is None else self.maxsize
