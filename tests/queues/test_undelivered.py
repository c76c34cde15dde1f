"""Items that cannot go on, and ends that leave at the wrong moment: each is told to whom it concerns, and costs nobody
else anything."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock
from typing import Any

import numpy
import pytest
from making import made
from processes import Other
from proxy import Proxy
from serving import KEY, Served, start_collector_of_pyzmq

from patience import DEADLINE_S
from sage.errors import QueueError
from sage.queues import (
    Full,
    LocalQueue,
    LocalQueueDescriptor,
    Queue,
    QueueClosed,
    SageQueueDescriptor,
    SharedMemoryQueue,
    SharedMemoryQueueDescriptor,
)
from sage.queues.measured import MeasuredQueue
from sage.queues.remote.link import link_to
from sage.queues.remote.queue import RemoteQueue
from sage.queues.sage import SageQueue

Make = Callable[..., tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]]
LARGE = bytes(200_000)


@pytest.fixture(scope="module", autouse=True)
def collector() -> None:
    start_collector_of_pyzmq()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@pytest.fixture
def make_in_memory() -> Iterator[Make]:
    yield from made(SharedMemoryQueueDescriptor, SharedMemoryQueue, lambda descriptor: descriptor.path)


@pytest.fixture
def make(make_in_memory: Make, served: Served) -> Iterator[Make]:
    """New queues in shared memory, which are served."""
    ids = []

    def make(**fields: Any) -> tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]:
        descriptor, queue = make_in_memory(**fields)
        served.server.serve(descriptor.queue_id, queue)
        ids.append(descriptor.queue_id)
        return descriptor, queue

    yield make
    for queue_id in ids:
        served.server.withdraw(queue_id)


class Bomb:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


class Shy:
    """Raises when it is unpickled on a thread of a server; else it is 1."""

    def __reduce__(self) -> Any:
        return eval, ("1 // (not __import__('threading').current_thread().name.startswith('sage-queue'))",)


def refused(code: str, work: Callable[[], object]) -> QueueError:
    with pytest.raises(QueueError) as raised:
        work()
    assert raised.value.code == code
    return raised.value


# --- at a server ---


def test_consumers_come_and_go_while_another_is_fed(served: Served) -> None:
    queue = served.queue(20_000)
    stays, leaving = served.open(queue), Event()
    got: list[int] = []

    def put() -> int:
        count = 0
        while not leaving.is_set():
            queue.put_batch(list(range(count, count + 1_000)), timeout=DEADLINE_S)
            count += 1_000
        queue.close()
        return count

    with ThreadPoolExecutor(2) as threads:
        putting = threads.submit(put)
        eating = threads.submit(lambda: [got.extend(items) for items in batches(stays, 500)])
        for _ in range(10):
            leaves = served.open(queue)
            for _ in range(20):
                got += leaves.get_batch(50, timeout=DEADLINE_S)
            leaves.detach()
        leaving.set()
        count = putting.result(DEADLINE_S)
        eating.result(DEADLINE_S)
    got += [item for items in batches(queue, 1_000) for item in items]  # came back after the last
    assert sorted(got) == list(range(count))


def batches(queue: Queue[Any], count: int) -> Iterator[list[Any]]:
    """All that comes until the queue is at its end."""
    with suppress(QueueClosed):
        while True:
            yield queue.get_batch(count, timeout=DEADLINE_S)


@pytest.mark.parametrize("kind", [LocalQueue, MeasuredQueue])
def test_what_comes_back_and_cannot_be_unpickled_is_told_and_takes_no_room(kind: type[LocalQueue[Any]]) -> None:
    queue = LocalQueue(5) if kind is LocalQueue else MeasuredQueue(5, 10_000)
    frames = []
    for items in (["first"], [Bomb(), Bomb()], ["last"]):
        queue.put_batch(items)
        frames += queue.take_frames(5)
    assert not queue.put_back(frames)
    assert "2 items" in refused("E509", queue.flush).what
    assert queue.get_batch() == ["first", "last"]
    assert queue.bytes_in == queue.bytes_out
    queue.put_batch(list(range(5)), block=False)


def test_what_cannot_be_pickled_for_a_consumer_takes_no_room() -> None:
    queue: MeasuredQueue[Any] = MeasuredQueue(5, 10_000)
    queue.put_batch(["x" * 3_000, lock := Lock()])
    assert [frame.items for frame in queue.take_frames(5)] == [1]
    queue.confirm(1)
    assert refused("E509", queue.flush).items == [lock]
    assert queue.bytes_in == queue.bytes_out
    queue.put_nowait("y" * 9_000)


def test_a_frame_that_the_owner_cannot_unpickle_goes_as_it_is(served: Served, make: Make) -> None:
    descriptor, queue = make()
    consumer = served.open(descriptor.queue_id)
    queue.put_batch([Shy() for _ in range(20)])
    queue.put_batch(["more", "still"])
    assert [consumer.get(timeout=DEADLINE_S) for _ in range(22)] == [1] * 20 + ["more", "still"]


def test_what_neither_owner_nor_consumer_can_unpickle_is_told_to_the_consumer(served: Served, make: Make) -> None:
    descriptor, queue = make(maxsize=5)
    consumer = served.open(descriptor.queue_id)
    queue.put_batch([Shy(), Shy(), Shy()])
    with Other(descriptor, "queue = descriptor.open()\nsay(queue.get())\nqueue.detach()\nsay('left')") as other:
        assert [other.hear(), other.hear()] == ["1", "left"]
    for _ in range(2):  # who takes only some of a frame leaves the rest to the owner
        refused("E509", lambda: consumer.get(timeout=DEADLINE_S))
    queue.put_batch(list(range(5)), timeout=DEADLINE_S)
    assert [consumer.get(timeout=DEADLINE_S) for _ in range(5)] == list(range(5))


def test_items_before_a_frame_that_cannot_be_unpickled_are_got(served: Served, make: Make) -> None:
    descriptor, _ = make()
    consumer = served.open(descriptor.queue_id)
    for items in ([0, 1, 2], [Bomb()], [3]):
        consumer.put_batch(items)
        consumer.flush()  # alone in its frame
    assert consumer.get_batch(10, timeout=DEADLINE_S) == [0, 1, 2]
    refused("E509", lambda: consumer.get_batch(10, timeout=DEADLINE_S))
    assert consumer.get_batch(10, timeout=DEADLINE_S) == [3]


def test_where_memory_is_short_large_items_are_refused(
    served: Served, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor, queue = make()
    queue.put(numpy.zeros(200_000, numpy.uint8))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as short:
        short.setattr(os, "posix_fallocate", fail)
        with pytest.raises(Full):
            queue.put_nowait(bytes(400_000))
        seen = queue.get()
        with pytest.raises(Full):
            queue.put_nowait(bytes(400_000))
        del seen
        refused("E507", lambda: queue.put(bytes(400_000)))
        producer = served.open(descriptor.queue_id)
        producer.put(item := bytes(400_000))
        assert refused("E507", producer.wait_for_pending_puts).items == [item]
        producer.put(LARGE)  # as much as there is memory for
    assert queue.get(timeout=DEADLINE_S) == LARGE


def test_what_this_process_looks_at_takes_no_room_in_the_queue(make: Make) -> None:
    _, queue = make(max_bytes=1_000_000)
    queue.put(numpy.zeros(400_000, numpy.uint8))
    seen = queue.get()
    queue.put_nowait(numpy.ones(700_000, numpy.uint8))
    with pytest.raises(Full):
        queue.put_nowait(numpy.ones(400_000, numpy.uint8))
    assert not seen.any()


# --- at a client ---


def gathered(served: Served, queue: LocalQueue[Any], item: object) -> RemoteQueue[Any]:
    """An end where `item` waits for company."""
    producer = served.open(queue)
    producer.adaptive, producer.linger_ms = False, 1e6
    producer.put("first")
    assert producer.wait_for_pending_puts(DEADLINE_S)
    producer.put(item)
    return producer


def test_a_look_at_the_figures_takes_no_failure_away(served: Served) -> None:
    producer = gathered(served, served.queue(), lock := Lock())
    assert producer.get_stats().depth == producer.qsize() == 1
    assert refused("E509", producer.flush).items == [lock]


def test_a_close_that_tells_of_a_failure_closes(served: Served) -> None:
    queue = served.queue()
    producer = gathered(served, queue, lock := Lock())
    assert refused("E509", producer.close).items == [lock]
    assert queue.closed


def test_who_leaves_while_the_network_is_down_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.queues.remote.queue._LEAVE_S", 0.05)
    queue = served.queue()
    with Proxy(served.server.address) as proxy:
        producer = served.open(queue, proxy.address)
        producer.put(0)
        assert producer.wait_for_pending_puts(DEADLINE_S)
        proxy.stall()
        producer.put_batch([1, 2, 3])
        assert "3 items" in refused("E515", producer.detach).what
        producer.detach()


def test_a_link_is_there_for_who_was_handed_it(served: Served) -> None:
    queue = served.queue()
    leaves: RemoteQueue[int] = RemoteQueue(link_to(served.server.address, KEY), queue._queue_id)
    link = link_to(served.server.address, KEY)
    leaves.detach()
    comes: RemoteQueue[int] = RemoteQueue(link, queue._queue_id)
    comes.put(1)
    assert queue.get(timeout=DEADLINE_S) == 1
    comes.detach()


# --- handles ---


def test_a_queue_whose_owner_does_not_answer_holds_up_no_other() -> None:
    slow, answered = SageQueueDescriptor(), Event()
    with socket.socket(socket.AF_UNIX) as owner, ThreadPoolExecutor(2) as threads:
        owner.bind(f"\0sage-queue-{slow.token}")
        owner.listen()
        opening = threads.submit(slow.open)
        asking, _ = owner.accept()
        try:
            for other in (LocalQueueDescriptor(), SharedMemoryQueueDescriptor(), SageQueueDescriptor()):
                assert other.create() is other.open()
                other.open().detach()
            second = threads.submit(lambda: answered.wait() and slow.open())
            assert not opening.done()
        finally:
            asking.close()
            answered.set()
        refused("E508", lambda: opening.result(DEADLINE_S))
        owner.accept()[0].close()
        refused("E508", lambda: second.result(DEADLINE_S))


def test_a_handle_that_leaves_with_an_error_is_not_handed_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = SageQueueDescriptor()
    queue = descriptor.create()
    assert isinstance(queue, SageQueue)

    def fail() -> None:
        raise QueueError("E515", "no room")

    with monkeypatch.context() as failing:
        failing.setattr(queue.core, "detach", fail)
        refused("E515", queue.detach)
    refused("E504", descriptor.open)
    queue.core.detach()
