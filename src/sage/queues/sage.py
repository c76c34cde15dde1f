"""The queue that finds its own way: by reference while its ends are threads of its owner's process, through shared
memory from the moment that another process of the machine opens it, and over the network from other machines.

How the ends find each other: the owner listens on a socket of the machine that is named after the descriptor's token.
Whoever connects asks for the queue to be reachable; the answer says that it is, or why it cannot be. Nothing else goes
through the socket, and it is gone when its owner is. Ends on other machines can find a queue only if its descriptor
says where: with `host` and `port`, the owner listens there too, and the queue is in shared memory from the beginning.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sage.errors import QueueBroken, QueueClosed, QueueError
from sage.processes import at_other_end
from sage.queues import handles
from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, register_kind
from sage.queues.front import Front
from sage.queues.local import LocalQueue
from sage.queues.measured import MeasuredQueue
from sage.queues.queue import Full, Item, Queue, QueueStats
from sage.queues.remote.keys import new_key
from sage.queues.rpc import RPCQueueDescriptor
from sage.queues.shared_memory import SharedMemoryQueue
from sage.queues.shared_memory_kind import SharedMemoryQueueDescriptor
from sage.queues.watch import watch

if TYPE_CHECKING:
    from sage.queues.remote.server import QueueServer  # msgspec comes with it

_MOVED = 1_000
_ANSWER_S = 30.0
_DONE = b"done"
_MAX_ANSWER_BYTES = 4096


class SageQueue(Front[Item]):
    """This process's handle.

    In the owner's process items are passed by reference until another process opens the queue. Then what is in it is
    moved, and what is put from then on has to be picklable. Nobody notices, but for the time that it takes.
    """

    def __init__(
        self, descriptor: SageQueueDescriptor, core: Queue[Item], listener: socket.socket | None = None
    ) -> None:
        super().__init__(core)
        self._descriptor = descriptor
        self._moving = threading.Lock()
        self._earlier: list[tuple[int, QueueStats]] = []  # figures to add to the core's, and to subtract
        self._server: QueueServer | None = None
        self._listener = -1
        if listener is not None:
            self._listener = listener.detach()
            watch.when_readable(self._listener, self._answer)

    def serve(self) -> None:
        """Let other machines reach it, at the descriptor's host and port. Raises E503 where the port is taken."""
        from sage.queues.remote.server import QueueServer

        assert isinstance(self._core, SharedMemoryQueue)
        there = self._descriptor.remote
        self._server = QueueServer(there.key, there.host, there.port)
        self._server.serve(there.queue_id, self._core)

    def __reduce__(self) -> tuple[Any, ...]:
        return SageQueueDescriptor.open, (self._descriptor,)

    def get_stats(self) -> QueueStats:
        with self._moving:
            return _sum(self._core.get_stats(), self._earlier)

    def close(self) -> None:
        with self._moving:
            self._core.close()

    def detach(self) -> None:
        handles.forget(self)
        watch.end(self._listener)
        if self._server is not None:
            self._server.close()
        with self._moving:
            self._core.detach()

    def _follow(self, core: Queue[Item], error: QueueClosed | QueueBroken) -> None:
        with self._moving:  # where the core is about to be exchanged, that is why it was closed
            if core is self._core:
                raise error

    # --- the owner's side, on the watching thread ---

    def _answer(self) -> None:
        """Somebody asks for the queue to be in shared memory."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._listener)) as listener:
            asking, _ = listener.accept()
            with asking:
                if at_other_end(asking)[1] == os.geteuid():
                    asking.send(self._moved())

    def _moved(self) -> bytes:
        with self._moving:
            if not isinstance(self._core, LocalQueue):
                return _DONE
            try:
                self._core = self._move(self._core)
            except QueueError as error:
                return error.what.encode()[:_MAX_ANSWER_BYTES]
            except Full:
                return b"what is in it does not fit into shared memory now"
            return _DONE

    def _move(self, old: LocalQueue[Item]) -> Queue[Item]:
        """What was put so far, in shared memory. Those who wait at the old queue are woken, and follow."""
        new: Queue[Item] = self._descriptor.memory.create()
        new.batch_size, new.linger_ms, new.adaptive = old.batch_size, old.linger_ms, old.adaptive
        was_closed = old.closed
        items, takes = _drained(old)
        try:
            new.put_batch(items, block=False)
            new.flush()
        except (Full, QueueError):
            new.close()
            new.detach()
            self._core = new = self._descriptor.local()
            new.put_batch(items)
            raise
        finally:
            moving = replace(new.get_stats(), total_gets=len(items), batch_gets=takes)
            self._earlier += [(1, old.get_stats()), (-1, moving)]
            if was_closed:
                new.close()
        return new


def _drained(old: LocalQueue[Item]) -> tuple[list[Item], int]:
    """Close the queue and take all that is in it; the items, and in how many calls."""
    old.close()
    items: list[Item] = []
    takes = 0
    with suppress(QueueClosed):
        while takes := takes + 1:
            items += old.get_batch(_MOVED)
    return items, takes


def _sum(now: QueueStats, earlier: list[tuple[int, QueueStats]]) -> QueueStats:
    terms = [(1, now), *earlier]

    def total(figure: Callable[[QueueStats], float]) -> float:
        return sum(sign * figure(stats) for sign, stats in terms)

    batch_puts = int(total(lambda stats: stats.batch_puts))
    batched = total(lambda stats: stats.batch_puts * stats.avg_batch_size)
    return replace(
        now,
        total_puts=int(total(lambda stats: stats.total_puts)),
        total_gets=int(total(lambda stats: stats.total_gets)),
        batch_puts=batch_puts,
        batch_gets=int(total(lambda stats: stats.batch_gets)),
        avg_batch_size=batched / batch_puts if batch_puts else 0.0,
        put_wait_s=total(lambda stats: stats.put_wait_s),
        get_wait_s=total(lambda stats: stats.get_wait_s),
    )


@register_kind
@dataclass(frozen=True, kw_only=True)
class SageQueueDescriptor(QueueDescriptor):
    """A queue that takes the quickest path between its ends: by reference, through shared memory, or over the network.

    Other machines reach it only with `host` and `port`; `remote` is the same queue for those who have nothing else.
    """

    kind: ClassVar[str] = "sage"
    cost: ClassVar[int] = 20

    max_bytes: int = 64 * 1024 * 1024
    """How many bytes the items may take together, in the owner's memory and in the shared one."""
    token: str = field(default_factory=lambda: os.urandom(16).hex())
    """Names the owner's socket, and the memory. Nobody can guess it."""
    host: str | None = None
    """Where other machines find the owner, which listens there."""
    port: int | None = None
    key: str = field(default_factory=new_key, repr=False)
    """The secret by which they and the owner know each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_capacity("max_bytes", self.max_bytes, at=f"queue {self.queue_id}")
        _ = self.memory  # which refuses a token that is none
        if self.host is not None or self.port is not None:
            _ = self.remote  # and this an address that is none

    @property
    def memory(self) -> SharedMemoryQueueDescriptor:
        """Where the queue is, once another process has opened it."""
        return SharedMemoryQueueDescriptor(
            queue_id=self.queue_id, maxsize=self.maxsize, max_bytes=self.max_bytes, token=self.token
        )

    def local(self) -> LocalQueue[Any]:
        """A new queue for as long as no other process has opened it."""
        return MeasuredQueue(self.maxsize, self.max_bytes, queue_id=self.queue_id)

    @property
    def remote(self) -> RPCQueueDescriptor:
        """The same queue, as other machines see it. Raises `QueueError` E502 where they do not."""
        if self.host is None or self.port is None:
            at = f"queue {self.queue_id}"
            raise QueueError("E502", "other machines need both to find the owner", at=at, expected="host and port")
        return RPCQueueDescriptor(
            queue_id=self.queue_id,
            maxsize=self.maxsize,
            max_bytes=self.max_bytes,
            host=self.host,
            port=self.port,
            key=self.key,
        )

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        if not sys.platform.startswith("linux"):
            return "it needs Linux"
        return None if producer == consumer else SharedMemoryQueueDescriptor.refusal(producer, consumer)

    def _make(self) -> SageQueue[Any]:
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.setblocking(False)
            listener.bind(self._address)
            listener.listen()
            core = self.local() if self.host is None else self.memory.create()
        except BaseException as error:
            listener.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise QueueError("E503", "this queue exists already", at=f"queue {self.queue_id}") from None
            raise
        queue: SageQueue[Any] = SageQueue(self, core, listener)
        try:
            if self.host is not None:
                queue.serve()
        except BaseException:
            queue.detach()
            raise
        return queue

    def _attach(self) -> SageQueue[Any]:
        answer = self._asked()
        if answer is None:
            if self.host is None:
                raise self.missing("nobody has created it on this machine, or its owner is dead")
            return SageQueue(self, self.remote.open())
        if answer != _DONE:
            what = f"its owner cannot share it: {answer.decode(errors='replace')}"
            raise QueueError("E508", what, at=f"queue {self.queue_id}")
        return SageQueue(self, self.memory.open())

    def _asked(self) -> bytes | None:
        """What the owner says to the wish that the queue be in shared memory; None where none is on this machine."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_S)
            try:
                connection.connect(self._address)
                if at_other_end(connection)[1] != os.geteuid():
                    raise QueueError("E507", "the owner of the queue is another user", at=f"queue {self.queue_id}")
                return connection.recv(_MAX_ANSWER_BYTES)
            except ConnectionRefusedError:
                return None
            except OSError as error:
                raise self.missing("its owner does not answer") from error

    @property
    def _address(self) -> str:
        """In the kernel's own namespace of sockets: no file is left behind."""
        return f"\0sage-queue-{self.token}"
