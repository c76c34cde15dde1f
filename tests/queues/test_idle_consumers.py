"""What a consumer was sent ahead and does not get is there for another one, on each kind of queue."""

from collections.abc import Iterator
from typing import Any

import pytest

from patience import DEADLINE_S
from ports import free_port
from sage.queues import (
    LocalQueueDescriptor,
    Queue,
    QueueDescriptor,
    RPCQueueDescriptor,
    SageQueueDescriptor,
    SharedMemoryQueueDescriptor,
    new_key,
)
from sage.queues.remote.link import Link
from sage.queues.remote.queue import RemoteQueue
from sage.queues.remote.server import QueueServer
from sage.queues.remote.zeromq import ZeroMQConnection
from sage.testing import check_queue_ends

KEY = new_key()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked for what it holds has the time to answer, however slow the machine is."""
    for patience in (
        "remote.settling.SETTLE_S",
        "remote.feeding._LAST_S",
        "remote.consuming.GRACE_S",
        "local_store._SETTLE_S",
        "waiting.SETTLE_S",
    ):
        monkeypatch.setattr(f"sage.queues.{patience}", DEADLINE_S)


@pytest.fixture
def server() -> Iterator[QueueServer]:
    made = QueueServer(KEY)
    yield made
    made.close()


def opened(server: QueueServer, queue_id: str) -> RemoteQueue[Any]:
    """A handle on a link of its own."""
    host, port = server.address
    return RemoteQueue(Link(lambda name: ZeroMQConnection(host, port, KEY, name), f"{host}:{port}"), queue_id)


@pytest.mark.parametrize("idle", ["the owner", "elsewhere"])
@pytest.mark.parametrize("other", ["the owner", "elsewhere"])
@pytest.mark.parametrize("kind", [LocalQueueDescriptor, SharedMemoryQueueDescriptor])
def test_beside_an_idle_consumer(
    server: QueueServer, kind: type[LocalQueueDescriptor | SharedMemoryQueueDescriptor], idle: str, other: str
) -> None:
    made: list[Queue[Any]] = []

    def make(maxsize: int) -> tuple[Queue[Any], Queue[Any]]:
        descriptor = kind(maxsize=maxsize)
        made.append(queue := descriptor.create())
        server.serve(descriptor.queue_id, queue)
        ends = [queue if end == "the owner" else opened(server, descriptor.queue_id) for end in (idle, other)]
        return ends[0], ends[1]

    check_queue_ends(make)
    for queue in made:
        queue.detach()


@pytest.mark.parametrize("kind", [SageQueueDescriptor, RPCQueueDescriptor])
def test_beside_threads_that_are_idle(kind: type[SageQueueDescriptor | RPCQueueDescriptor]) -> None:
    def make(maxsize: int) -> tuple[Queue[Any], Queue[Any]]:
        descriptor: QueueDescriptor = (
            RPCQueueDescriptor(maxsize=maxsize, port=free_port(), key=KEY)
            if kind is RPCQueueDescriptor
            else SageQueueDescriptor(maxsize=maxsize)
        )
        queue = descriptor.create()
        return queue, queue

    check_queue_ends(make)
