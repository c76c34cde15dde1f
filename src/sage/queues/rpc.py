"""The queue that is reached over the network: its owner serves it, others need only host, port and key.

It lives in the memory of its owner's process. There its items are passed by reference; from and to other processes they
travel pickled, over connections that both ends authenticate with the key, and that are encrypted.
"""

from __future__ import annotations

import atexit
import os
import re
import weakref
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

from sage.errors import MissingDependency, QueueError
from sage.queues import handles
from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, register_kind
from sage.queues.measured import MeasuredQueue
from sage.queues.queue import Item, Queue
from sage.queues.remote.keys import check_key

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 30.0
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class RPCQueue(MeasuredQueue[Item]):
    """The owner's handle. Detaching it, and the end of its process, is the end of the queue: others get `QueueBroken`.

    An item that cannot be pickled when another process is to get it is told by `flush`.
    """

    def __init__(self, descriptor: RPCQueueDescriptor) -> None:
        """Raises `QueueError` E503 where the port is taken."""
        from sage.queues.remote.server import QueueServer

        super().__init__(descriptor.maxsize, descriptor.max_bytes, queue_id=descriptor.queue_id)
        self._serves = QueueServer(
            descriptor.key, descriptor.bind or descriptor.host, descriptor.port, patience_s=descriptor.patience_s
        )
        self._serves.serve(descriptor.queue_id, self)
        _owned.add(self)

    def detach(self) -> None:
        self.close()
        self._serves.close()
        _owned.discard(self)
        handles.forget(self)


@register_kind
@dataclass(frozen=True, kw_only=True)
class RPCQueueDescriptor(QueueDescriptor):
    """A queue over TCP. `host`, `port` and `key` are enough to open it.

    Whoever has the key can put and get, and, as items are pickled, run code in the processes that use the queue.
    """

    kind: ClassVar[str] = "rpc"
    cost: ClassVar[int] = 50

    queue_id: str = ""
    """If not given, it follows from the port."""
    host: str = LOOPBACK
    """Where others find the owner."""
    port: int
    key: str = field(repr=False)
    """The secret that all ends share: see `new_key`."""
    bind: str | None = None
    """At which address the owner listens, if not at `host`."""
    patience_s: float = _PATIENCE_S
    """How long an end may be silent before it is given up, where nothing tells that it is gone."""
    max_bytes: int = 64 * 1024 * 1024
    """How many bytes the items may take together in the owner's memory; its own to say, as `maxsize`."""
    by_value: bool = False
    """Whether classes and functions of the script that runs travel with the items."""

    def __post_init__(self) -> None:
        if type(self.port) is not int or not 1 <= self.port < 2**16:
            raise QueueError("E502", "the port is not possible", got=self.port, expected="1 to 65535")
        if not self.queue_id:
            object.__setattr__(self, "queue_id", f"rpc-{self.port}")
        super().__post_init__()
        check_capacity("max_bytes", self.max_bytes, at=f"queue {self.queue_id}")
        check_key(self.key)
        _check_host(self.host)
        if self.bind is not None:
            _check_host(self.bind)
        if isinstance(self.patience_s, bool) or not 1 <= self.patience_s <= 86_400:
            raise QueueError("E502", "patience_s is not possible", got=self.patience_s, expected="1 to 86,400 seconds")

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        return None if _has_pyzmq() else "pyzmq is not installed"

    def _make(self) -> Queue[Any]:
        _require_pyzmq()
        return RPCQueue(self)

    def _attach(self) -> Queue[Any]:
        _require_pyzmq()
        from sage.queues.remote.link import link_to
        from sage.queues.remote.queue import RemoteQueue

        try:
            link = link_to((self.host, self.port), self.key, patience_s=self.patience_s)
            return RemoteQueue(link, self.queue_id, by_value=self.by_value)
        except QueueError as error:
            raise self.missing(error.what) from error


def _check_host(host: Any) -> None:
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise QueueError("E502", "the host is not possible", got=host, expected="a name or an IPv4 address")


def _has_pyzmq() -> bool:
    try:
        return find_spec("zmq") is not None
    except ValueError:  # somebody keeps it from being imported
        return False


def _require_pyzmq() -> None:
    if not _has_pyzmq():
        raise MissingDependency("pyzmq", "rpc", "an RPC queue")


_owned: weakref.WeakSet[RPCQueue[Any]] = weakref.WeakSet()


def _end_at_exit() -> None:
    """Tell the others rather than let them find out."""
    for queue in list(_owned):
        queue.detach()


atexit.register(_end_at_exit)
os.register_at_fork(after_in_child=_owned.clear)
