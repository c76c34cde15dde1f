"""The queue between processes of one machine, with real processes that are killed and stopped."""

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from making import made
from processes import Other

from patience import DEADLINE_S
from sage.queues import (
    BatchFull,
    Empty,
    Full,
    Queue,
    QueueBroken,
    QueueClosed,
    QueueError,
    SharedMemoryQueue,
    SharedMemoryQueueDescriptor,
)
from sage.testing import check_queue, check_queue_bytes

Make = Callable[..., tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """New queues, whose files are gone after the test."""
    yield from made(SharedMemoryQueueDescriptor, SharedMemoryQueue, lambda descriptor: descriptor.path)


def refused(code: str, work: Callable[[], object]) -> QueueError:
    with pytest.raises(QueueError) as raised:
        work()
    assert raised.value.code == code
    return raised.value


@pytest.mark.parametrize("batch_size", [100, 1])
def test_the_contract(batch_size: int) -> None:
    made = []

    def create(maxsize: int | None) -> Queue[Any]:
        made.append(SharedMemoryQueueDescriptor(maxsize=maxsize))
        queue = made[-1].create()
        queue.batch_size = batch_size
        return queue

    check_queue(create)
    assert not [descriptor for descriptor in made if descriptor.path.exists()]


@pytest.mark.parametrize("batch_size", [100, 1])
def test_the_contract_of_bytes(batch_size: int) -> None:
    def create(max_bytes: int) -> Queue[Any]:
        queue = SharedMemoryQueueDescriptor(max_bytes=max_bytes).create()
        queue.batch_size = batch_size
        return queue

    check_queue_bytes(create)


def test_everything_arrives_once_and_in_order(make: Make) -> None:
    descriptor, queue = make(maxsize=500)
    producer = """
number = int(hear())
queue = descriptor.open()
for start in range(0, 20000, 50):
    queue.put_batch([(number, index) for index in range(start, start + 25)])
    for index in range(start + 25, start + 50):
        queue.put((number, index))
queue.detach()
"""
    consumer = """
queue = descriptor.open()
got = []
while True:
    try:
        got += queue.get_batch(7) if len(got) % 3 else [queue.get()]
    except QueueClosed:
        break
for number in range(4):
    own = [index for producer, index in got if producer == number]
    assert own == sorted(own)
say(json.dumps([index * 4 + number for number, index in got]))
"""
    producers = [Other(descriptor, producer) for _ in range(4)]
    consumers = [Other(descriptor, consumer) for _ in range(4)]
    for number, other in enumerate(producers):
        other.say(str(number))
    assert [other.process.wait(DEADLINE_S) for other in producers] == [0] * 4
    queue.close()
    got = sorted(item for other in consumers for item in json.loads(other.hear()))
    assert got == list(range(80_000))
    for other in (*producers, *consumers):
        with other:
            pass


@pytest.mark.parametrize("shape", [(10_000,), (300, 500), (1_000_000,)])
def test_large_arrays_arrive_as_views_of_memory_that_is_used_again(make: Make, shape: tuple[int, ...]) -> None:
    descriptor, queue = make(max_bytes=32_000_000)
    echo = """
back = QueueDescriptor.from_json(hear()).open()
for item in descriptor.open():
    item["array"] *= 2
    back.put(item)
    del item
back.close()
"""
    back_descriptor, back = make()
    with Other(descriptor, echo) as other:
        other.say(back_descriptor.to_json())
        for turn in range(30):
            queue.put({"array": numpy.full(shape, float(turn)), "turn": turn})
            item = back.get(timeout=DEADLINE_S)
            assert item["turn"] == turn
            assert not item["array"].flags.owndata
            assert (item["array"] == 2 * turn).all()
            del item
        queue.close()
        assert list(back) == []
    assert descriptor.path.stat().st_size < 25_000_000  # not the 240 MB that went through


def test_a_consumer_may_keep_more_than_the_queue_holds(make: Make) -> None:
    _, queue = make(max_bytes=1_000_000)
    kept = []
    for turn in range(20):
        queue.put(numpy.full(25_000, float(turn)))
        kept.append(queue.get())
    assert [array[-1] for array in kept] == list(range(20))


def test_bytes_are_bounded(make: Make) -> None:
    _, queue = make(max_bytes=1_000_000)
    for _ in range(20):
        try:
            queue.put_nowait(bytes(200_000))
        except Full:
            break
    else:
        pytest.fail("4 MB fitted into 1 MB")
    with pytest.raises(BatchFull):
        queue.put_batch([bytes(200_000)], timeout=0.01)
    queue.get()
    queue.put_nowait(bytes(200_000))
    refused("E509", lambda: queue.put(bytes(1_000_001)))


FLOOD = """
queue = descriptor.open()
say('open')
index = 0
while True:
    queue.put(index)
    index += 1
"""


def test_a_killed_producer_is_noticed_and_replaced(make: Make) -> None:
    descriptor, queue = make(maxsize=100)
    with Other(descriptor, FLOOD) as producer:
        got = [queue.get(timeout=DEADLINE_S) for _ in range(1_000)]
        producer.kill()
        while not queue.empty():
            got.append(queue.get())
        with pytest.raises(QueueBroken, match="E506 the last producer died"):
            queue.get()
        assert got == list(range(len(got)))
    with Other(descriptor, FLOOD) as producer:
        assert producer.hear() == "open"  # until then the last producer is a dead one
        assert [queue.get() for _ in range(1_000)] == list(range(1_000))


def test_others_go_on_when_one_of_two_producers_is_killed(make: Make) -> None:
    descriptor, queue = make(maxsize=100)
    calm = "queue = descriptor.open()\nqueue.put('here')\nhear()\nqueue.put('end')\nqueue.detach()"
    with Other(descriptor, FLOOD) as first, Other(descriptor, calm) as second:
        while queue.get(timeout=DEADLINE_S) != "here":
            pass
        first.kill()
        while not queue.empty():
            queue.get()
        with pytest.raises(Empty):
            queue.get(timeout=1.2)  # longer than it takes to notice a death
        second.say("go on")
        assert queue.get(timeout=DEADLINE_S) == "end"


def test_a_killed_consumer_is_noticed_and_replaced(make: Make) -> None:
    descriptor, queue = make(maxsize=100)
    one = "queue = descriptor.open()\nsay(queue.get())\nhear()\n"
    with Other(descriptor, one) as consumer:
        queue.put("first")
        assert consumer.hear() == "first"
        consumer.kill()
        for index in range(100):
            queue.put(index)
        with pytest.raises(QueueBroken, match="E506 the last consumer died") as raised:
            queue.put(100)
        assert list(raised.value.items) == [100]
        assert queue.full()
    drain = "queue = descriptor.open()\nfor item in queue:\n    say(item)\n"
    with Other(descriptor, drain) as consumer:
        assert [consumer.hear() for _ in range(100)] == [str(index) for index in range(100)]
        queue.put("more")
        assert consumer.hear() == "more"


HOLDER = """
queue = descriptor.open()
side = queue._ring.{side}
side.lock.acquire(1.0)
say("held")
hear()
side.lock.release()
say("released")
hear()
"""


@pytest.mark.parametrize("side", ["putting", "getting"])
def test_a_lock_whose_holder_is_killed_is_recovered(make: Make, side: str) -> None:
    descriptor, queue = make()
    with Other(descriptor, HOLDER.format(side=side)) as other:
        assert other.hear() == "held"
        other.kill()
        queue.put("x")
        assert queue.get(timeout=DEADLINE_S) == "x"


def test_timeouts_are_honoured_while_the_holder_of_a_lock_is_stopped(make: Make) -> None:
    descriptor, queue = make()
    with Other(descriptor, HOLDER.format(side="putting")) as other:
        assert other.hear() == "held"
        other.send(signal.SIGSTOP)
        with pytest.raises(Full):
            queue.put("x", timeout=0.01)
        with pytest.raises(Full):
            queue.put_nowait("x")
        other.send(signal.SIGCONT)
        other.say("go on")
        assert other.hear() == "released"
        queue.put("x", timeout=DEADLINE_S)
        assert queue.get() == "x"


def test_a_stopped_producer_is_not_a_dead_one(make: Make) -> None:
    descriptor, queue = make(maxsize=10)
    with Other(descriptor, FLOOD) as producer:
        queue.get(timeout=DEADLINE_S)
        producer.send(signal.SIGSTOP)
        while not queue.empty():
            queue.get()
        with pytest.raises(Empty):
            queue.get(timeout=1.2)  # longer than it takes to notice a death
        producer.send(signal.SIGCONT)
        queue.get(timeout=DEADLINE_S)


def test_what_a_killed_consumer_looked_at_is_used_again(make: Make) -> None:
    descriptor, queue = make(max_bytes=1_000_000)
    look = "queue = descriptor.open()\nkept = [queue.get()]\nsay('got')\nhear()\n"
    with Other(descriptor, look) as consumer:
        queue.put(numpy.zeros(20_000))
        assert consumer.hear() == "got"
        size = descriptor.path.stat().st_size
        consumer.kill()
        with pytest.raises(QueueBroken):
            queue.put_batch([0] * 10_001)
        queue.get_batch(10_000)
        queue.put(numpy.zeros(20_000))
        assert descriptor.path.stat().st_size == size


def test_files_of_dead_processes_are_removed(make: Make) -> None:
    stale = SharedMemoryQueueDescriptor()
    with Other(stale, "descriptor.create()\nsay('made')\nhear()\n") as owner:
        assert owner.hear() == "made"
        make()
        assert stale.path.exists()
        owner.kill()
        make()
        assert not stale.path.exists()
    refused("E504", stale.open)


def test_the_owner_takes_the_file_along_and_others_can_empty_it(make: Make) -> None:
    descriptor = SharedMemoryQueueDescriptor()
    program = "queue = descriptor.create()\nqueue.put_batch([1, 2])\nsay('made')\nhear()\nqueue.close()"
    with Other(descriptor, program) as owner:
        assert owner.hear() == "made"
        queue = descriptor.open()
        owner.say("end")
        owner.process.wait(DEADLINE_S)
        assert not descriptor.path.exists()
        assert list(queue) == [1, 2]
        queue.detach()


def test_files_that_are_refused(make: Make, tmp_path: Path) -> None:
    descriptor, queue = make(maxsize=5)
    refused("E503", descriptor.create)
    queue.detach()
    refused("E504", descriptor.open)
    path = descriptor.path
    try:
        path.write_bytes(b"")
        path.chmod(0o600)
        refused("E507", descriptor.open)
        path.write_bytes(bytes(8_000_000))
        refused("E507", descriptor.open)
        path.chmod(0o644)
        refused("E507", descriptor.open)
        path.unlink()
        path.symlink_to(tmp_path)
        refused("E507", descriptor.open)
    finally:
        path.unlink()


@pytest.mark.root
def test_a_file_of_another_user_is_refused(make: Make) -> None:
    descriptor, _ = make()
    os.chown(descriptor.path, 65534, 65534)
    with Other(descriptor, "try:\n    descriptor.open()\nexcept QueueError as error:\n    say(error.code)") as other:
        assert other.hear() == "E507"


def test_a_queue_of_another_capacity_is_refused(make: Make) -> None:
    descriptor, _ = make(maxsize=5)
    other = SharedMemoryQueueDescriptor(maxsize=6, token=descriptor.token)
    refused("E503", other.create)


def test_items_that_cannot_be_pickled(make: Make) -> None:
    _, queue = make()
    refused("E509", lambda: queue.put(lambda: 0))
    error = refused("E509", lambda: queue.put_batch([1, 2, open, lambda: 0, 5]))
    assert len(error.items) == 2
    assert queue.get_batch() == [1, 2, open]


@pytest.mark.parametrize(
    "items",
    [
        ["text", "", "\0", "\U0001f600"],
        ["half of a pair: \ud800"],
        [0, -(2**63), 2**64 - 1],
        [2**64],
        [True, False],
        [1, True, 1.0],
        [0.5, float("inf"), -0.0],
        [b"", b"\x80\xff"],
        [None, None],
        [signal.SIGTERM],
        [("a", 1), ("b",)],
    ],
    ids=repr,
)
def test_lists_arrive_as_they_were(make: Make, items: list[Any]) -> None:
    _, queue = make()
    queue.put_batch(items)
    for item in items:
        queue.put(item)
    got = queue.get_batch(len(items)) + [queue.get() for _ in items]
    assert got == items + items
    assert [*map(type, got)] == [*map(type, items + items)]


class Unreadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_items_that_cannot_be_unpickled_are_dropped(make: Make) -> None:
    _, queue = make()
    queue.put_batch([1, 2])
    queue.put(Unreadable())
    queue.put(3)
    assert queue.get_batch() == [1, 2]
    refused("E509", queue.get_batch)
    assert queue.get() == 3
    queue.put(Unreadable())
    refused("E509", queue.get)
    assert queue.empty()


def test_a_handle_that_was_given_up(make: Make) -> None:
    _, queue = make()
    queue.put(1)
    queue.detach()
    for work in (queue.get, lambda: queue.put(2), queue.get_batch, lambda: queue.put_batch([2])):
        with pytest.raises(QueueClosed):
            work()
    gc.collect()
