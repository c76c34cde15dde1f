"""What lies between the hosts of a cluster: queues in the memory of a machine that others reach over one link, and the
control link of a host. One key for each run, handed out through Ray, authenticates and encrypts all of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.cluster.cluster import APART
from sage.errors import QueueError
from sage.flow.shipping import pack, unpack
from sage.processes import this_process
from sage.queues import Queue, RayQueueDescriptor, RPCQueueDescriptor, SharedMemoryQueueDescriptor

if TYPE_CHECKING:
    from sage.queues.remote.server import QueueServer  # msgspec comes with it

REACH_S = 5.0
"""How long a connection to another node may take."""
MEMORY = "/dev/shm"
"""Where queues in shared memory are."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host serves its queues."""

    machine: str
    """Which it is: see `here`. Several nodes of Ray may be on one."""
    host: str
    port: int
    process: int
    key: str = field(repr=False)

    def remote(self, queue_id: str) -> RPCQueueDescriptor:
        """A queue of this host, as other machines see it."""
        return RPCQueueDescriptor(queue_id=queue_id, host=self.host, port=self.port, key=self.key)


@dataclass(frozen=True, slots=True)
class MachineWay:
    """A queue that its owner keeps in the memory of its machine."""

    owner: Address
    memory: SharedMemoryQueueDescriptor

    def open(self) -> Queue[Any]:
        return self.memory.open() if here() == self.owner.machine else self.owner.remote(self.memory.queue_id).open()


@dataclass(frozen=True, slots=True)
class ControlWay:
    """The control link of a host, as it finds it: two queues of the driver."""

    driver: Address
    down: str
    up: str

    def open(self) -> QueueLink:
        """The host's end."""
        return QueueLink(incoming=self.driver.remote(self.down).open(), outgoing=self.driver.remote(self.up).open())


@dataclass(frozen=True, slots=True)
class CallsWay:
    """The same where no port can be reached: two queues of an actor."""

    down: RayQueueDescriptor
    up: RayQueueDescriptor

    def open(self) -> QueueLink:
        """The host's end."""
        return QueueLink(incoming=self.down.open(), outgoing=self.up.open())


class QueueLink:
    """A link over two queues."""

    def __init__(self, incoming: Queue[Sequence[Any]], outgoing: Queue[Sequence[Any]]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        outgoing.batch_size = 1
        self.why = ""
        """What was the end of it, in words."""

    def send(self, message: object) -> None:
        data, buffers = pack(message)
        try:
            self._outgoing.put((data, *buffers))
        except QueueError as error:
            raise ConnectionResetError(error.what) from error

    def receive(self) -> Any:
        try:
            data, *buffers = self._incoming.get()
        except QueueError as error:
            self.why = error.what
            return None
        return unpack(data, buffers)

    def flush(self) -> None:
        """Wait until everything has reached the other end, or it is gone."""
        try:
            self._outgoing.wait_for_pending_puts()
        except QueueError as error:
            raise ConnectionResetError(error.what) from error

    def shut(self) -> None:
        self._incoming.close()
        self._outgoing.close()

    def close(self) -> None:
        self._incoming.detach()
        self._outgoing.detach()


def reaches(address: Address) -> bool:
    """Whether this process can open a connection there, if it needs one."""
    if address.machine == here():
        return True
    try:
        socket.create_connection((address.host, address.port), REACH_S).close()
    except OSError:
        return False
    return True


def here() -> str:
    """The machine of this process: those that say the same share memory, and know one another by process id.

    Who is in another network is on another machine, as in the laboratory; so are nodes that are to be `APART`.
    """
    import ray

    memory = os.stat(MEMORY)
    spaces = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("user", "pid", "net")]
    apart = ray.get_runtime_context().get_node_labels().get(APART, "")
    return "/".join(map(str, (this_process().boot, os.geteuid(), memory.st_dev, memory.st_ino, *spaces, apart)))


def serve(key: str) -> tuple[Address, QueueServer]:
    """Begin to serve queues of this process, which all who know `key` may reach."""
    import ray

    from sage.queues.remote.server import QueueServer

    server = QueueServer(key, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return Address(here(), *server.address, os.getpid(), key), server


def called_by(caller: str, maxsize: int | None) -> RayQueueDescriptor:
    """A queue of the actor `caller`, which other nodes reach by calls."""
    import ray

    namespace = ray.get_runtime_context().namespace
    return RayQueueDescriptor(maxsize=maxsize, host=caller, namespace=namespace, ports=False)
