"""The queue that finds its own way: what changes when another process opens it, and what does not."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from making import made
from processes import Other

from patience import DEADLINE_S
from ports import free_port
from sage.queues import (
    Empty,
    Full,
    Place,
    QueueClosed,
    QueueDescriptor,
    QueueError,
    SageQueue,
    SageQueueDescriptor,
    SharedMemoryQueueDescriptor,
)
from sage.testing import check_queue, check_queue_bytes
from sage.testing.network import Network

Make = Callable[..., tuple[SageQueueDescriptor, SageQueue[Any]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """New queues, of which nothing is left after the test."""
    yield from made(SageQueueDescriptor, SageQueue, lambda descriptor: descriptor.memory.path)


def refused(code: str, work: Callable[[], object]) -> QueueError:
    with pytest.raises(QueueError) as raised:
        work()
    assert raised.value.code == code
    return raised.value


OPEN = "queue = descriptor.open(); say('open')\n"


def test_the_contract_among_threads() -> None:
    check_queue(lambda maxsize: SageQueueDescriptor(maxsize=maxsize).create())
    check_queue_bytes(lambda max_bytes: SageQueueDescriptor(max_bytes=max_bytes).create())


def test_the_contract_once_it_is_in_shared_memory() -> None:
    """Another process opens every queue of the check, before anything is done with it."""
    with Other(SageQueueDescriptor(), "while text := hear(): QueueDescriptor.from_json(text).open(); say('')") as other:

        def opened(**fields: Any) -> Any:
            descriptor = SageQueueDescriptor(**fields)
            queue = descriptor.create()
            other.say(descriptor.to_json())
            other.hear()
            return queue

        check_queue(lambda maxsize: opened(maxsize=maxsize))
        check_queue_bytes(lambda max_bytes: opened(max_bytes=max_bytes))


def test_threads_of_one_process_pass_references(make: Make) -> None:
    descriptor, queue = make()
    item = threading.Lock()  # nothing that could be pickled
    queue.put(item)
    assert descriptor.open() is queue
    assert queue.get() is item


def test_what_was_put_before_is_got_elsewhere_in_order(make: Make) -> None:
    descriptor, queue = make(maxsize=5_000)
    queue.put_batch(range(3_000))
    with Other(descriptor, OPEN + "say(queue.get_batch(5000) == list(range(3000))); say(queue.get())") as other:
        assert other.hear() == "open"
        assert other.hear() == "True"
        queue.put("after")
        assert other.hear() == "after"


def test_a_getter_that_waits_is_carried_over(make: Make) -> None:
    descriptor, queue = make()
    got: list[Any] = []
    getter = threading.Thread(target=lambda: got.append(queue.get()))
    getter.start()
    with Other(descriptor, OPEN + "queue.put(1); hear()") as other:
        assert other.hear() == "open"
        getter.join(DEADLINE_S)
        assert got == [1]


def test_a_putter_that_waits_is_carried_over(make: Make) -> None:
    descriptor, queue = make(maxsize=1)
    queue.put(1)
    putters = [threading.Thread(target=queue.put, args=(item,)) for item in (2, 3)]
    for putter in putters:
        putter.start()
    with Other(descriptor, OPEN + "say(sorted(queue.get() for _ in range(3)))") as other:
        assert other.hear() == "open"
        assert other.hear() == "[1, 2, 3]"
    for putter in putters:
        putter.join(DEADLINE_S)


def test_nothing_is_lost_or_repeated_while_it_moves(make: Make) -> None:
    """Four producers and four consumers are at it when another consumer comes from another process."""
    descriptor, queue = make(maxsize=100)
    count, producers = 3_000, 4
    got: list[list[Any]] = [[] for _ in range(4)]
    started = threading.Barrier(9)

    def produce(number: int) -> None:
        started.wait()
        for item in range(count):
            queue.put((number, item))

    def consume(mine: list[Any]) -> None:
        started.wait()
        mine += list(queue)

    work = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    work += [threading.Thread(target=consume, args=(mine,)) for mine in got]
    for thread in work:
        thread.start()
    with Other(descriptor, OPEN + "hear(); queue.detach(); say('left')") as other:
        started.wait()
        assert other.hear() == "open"
        other.say("leave")
        assert other.hear() == "left"
        for thread in work[:producers]:
            thread.join(DEADLINE_S)
        queue.close()
        for thread in work[producers:]:
            thread.join(DEADLINE_S)
    everything = [item for mine in got for item in mine]
    assert sorted(everything) == [(number, item) for number in range(producers) for item in range(count)]
    for mine in got:
        for number in range(producers):
            assert [item for item in mine if item[0] == number] == sorted(item for item in mine if item[0] == number)
    stats = queue.get_stats()
    assert (stats.total_puts, stats.total_gets, stats.depth) == (producers * count, producers * count, 0)


def test_capacity_and_figures_are_the_same_before_and_after(make: Make) -> None:
    descriptor, queue = make(maxsize=10)
    queue.batch_size = 7
    queue.put_batch(range(6))
    queue.put(6)
    assert queue.get() == 0
    before = queue.get_stats()
    with Other(descriptor, OPEN + "hear()") as other:
        assert other.hear() == "open"
        after = queue.get_stats()
        assert (after.total_puts, after.total_gets, after.depth) == (before.total_puts, before.total_gets, 6)
        assert (after.batch_puts, after.avg_batch_size) == (before.batch_puts, before.avg_batch_size)
        assert (queue.maxsize, queue.batch_size) == (10, 7)
        queue.put_batch(range(7, 11))
        with pytest.raises(Full):
            queue.put_nowait(11)
        assert queue.get_batch(20) == list(range(1, 11))
        with pytest.raises(Empty):
            queue.get_nowait()


def test_a_closed_queue_is_closed_after_the_move(make: Make) -> None:
    descriptor, queue = make()
    queue.put(1)
    queue.close()
    with Other(descriptor, OPEN + "say(list(queue))") as other:
        assert other.hear() == "open"
        assert other.hear() == "[1]"
        with pytest.raises(QueueClosed):
            queue.put(2)


def test_what_cannot_be_moved_stays_and_the_other_is_told(make: Make) -> None:
    descriptor, queue = make()
    item = threading.Lock()
    queue.put_batch([1, item])
    with Other(descriptor, "try:\n descriptor.open()\nexcept QueueError as error:\n say(error)") as other:
        told = other.hear()
    assert told.startswith("E508")
    assert "cannot be pickled" in told
    assert queue.get_batch() == [1, item]
    assert queue.get_stats().total_puts == 2


def test_ends_of_another_kind_attach_to_the_same_queue(make: Make) -> None:
    descriptor, queue = make()
    with Other(descriptor, OPEN + "hear()") as other:
        assert other.hear() == "open"
        queue.put("item")
        with Other(descriptor.memory, OPEN + "say(queue.get())") as third:
            assert third.hear() == "open"
            assert third.hear() == "item"


def test_ends_that_know_only_host_port_and_key_attach_to_the_same_queue(make: Make) -> None:
    port = free_port()
    descriptor, queue = make(maxsize=100, host="127.0.0.1", port=port)
    with Other(descriptor.remote, OPEN + "queue.put_batch(range(1, 5)); queue.detach(); say('put')") as other:
        assert other.hear() == "open"
        assert other.hear() == "put"
    with Other(descriptor, OPEN + "say(type(queue._core).__name__); say(queue.get_batch())") as other:
        assert other.hear() == "open"
        assert other.hear() == "SharedMemoryQueue"
        assert other.hear() == "[1, 2, 3, 4]"
    queue.put(5)
    assert descriptor.open().get() == 5


@pytest.mark.root
def test_the_same_descriptor_is_enough_on_another_machine() -> None:
    with Network() as network:
        here, there = network.host("a"), network.host("b")
        descriptor = SageQueueDescriptor(host=here.address, port=5_000)
        prologue = f"from sage.queues import QueueDescriptor\nd = QueueDescriptor.from_json({descriptor.to_json()!r})\n"
        own = "q = d.create()\nprint('made', flush=True)\nprint([q.get()], q.get())"
        put = "q = d.open()\nq.put(['item'])\nq.put_batch([2])\nq.detach()"
        pipe = subprocess.PIPE
        with here.popen([sys.executable, "-c", prologue + own], stdout=pipe, text=True) as owner:
            assert owner.stdout.readline() == "made\n"
            there.run([sys.executable, "-c", prologue + put], check=True, timeout=DEADLINE_S)
            assert owner.stdout.read().split() == ["[['item']]", "2"]


@pytest.mark.root
@pytest.mark.parametrize("owner", ["a", "b"])
def test_of_one_producer_and_three_consumers_each_array_crosses_between_their_machines_once(owner: str) -> None:
    size, each = 1_000_000, 4
    with Network() as network:
        producing, consuming = network.host("a"), network.host("b")
        owning = producing if owner == "a" else consuming
        descriptor = SageQueueDescriptor(host=owning.address, port=5_000)
        prologue = "import numpy\nfrom sage.queues import QueueDescriptor\n"
        prologue += f"d = QueueDescriptor.from_json({descriptor.to_json()!r})\n"
        own = "q = d.create()\nprint('made', flush=True)\ninput()\n"
        get = f"q = d.open()\nprint(sum(len(q.get()) for _ in range({each})))\nq.detach()"
        put = f"q = d.open()\nfor _ in range({3 * each}): q.put(numpy.zeros({size}, 'u1'))\nq.detach()"
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE, "text": True}
        with owning.popen([sys.executable, "-c", prologue + own], **pipes) as owned:
            assert owned.stdout.readline() == "made\n"
            takers = [consuming.popen([sys.executable, "-c", prologue + get], **pipes) for _ in range(3)]
            producing.run([sys.executable, "-c", prologue + put], check=True, timeout=DEADLINE_S)
            got = [taker.communicate(timeout=DEADLINE_S)[0] for taker in takers]
            assert got == [f"{each * size}\n"] * 3
            assert 1.0 < network.link("a", "b").crossed().bytes / (3 * each * size) < 1.2
            owned.communicate("\n", timeout=DEADLINE_S)


def test_half_an_address_is_none(make: Make) -> None:
    refused("E502", lambda: SageQueueDescriptor(host="127.0.0.1"))
    refused("E502", lambda: SageQueueDescriptor(port=5_000))
    refused("E502", lambda: SageQueueDescriptor(host="127.0.0.1", port=2**16))
    port = free_port()
    _descriptor, _queue = make(host="127.0.0.1", port=port)
    other = SageQueueDescriptor(host="127.0.0.1", port=port)
    refused("E503", other.create)
    refused("E504", SageQueueDescriptor(host="127.0.0.1", port=free_port()).open)


def test_where_there_is_no_owner(make: Make) -> None:
    refused("E504", SageQueueDescriptor().open)
    descriptor, queue = make()
    with Other(descriptor, "try:\n descriptor.create()\nexcept QueueError as error:\n say(error.code)") as other:
        assert other.hear() == "E503"
    queue.detach()
    refused("E504", descriptor.open)


def test_a_killed_owner_leaves_nothing(make: Make) -> None:
    descriptor = SageQueueDescriptor()
    with Other(descriptor, "queue = descriptor.create(); say('made'); hear()") as owner:
        assert owner.hear() == "made"
        owner.send(signal.SIGKILL)
        owner.process.wait()
        refused("E504", descriptor.open)


def test_connections_that_ask_nothing_do_no_harm(make: Make) -> None:
    descriptor, queue = make()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"\0sage-queue-{descriptor.token}")
        with suppress(OSError):  # it may be refused before, or while it is sent
            stranger.send(b"\x80\x05garbage" * 1_000)
    with Other(descriptor, OPEN) as other:
        assert other.hear() == "open"
    queue.put(1)
    assert queue.get() == 1


def test_the_descriptor_is_plain_data() -> None:
    descriptor = SageQueueDescriptor(maxsize=None, max_bytes=1_000_000)
    assert QueueDescriptor.from_json(descriptor.to_json()) == descriptor
    refused("E522", lambda: SageQueueDescriptor(token="../../etc/passwd"))
    refused("E502", lambda: SageQueueDescriptor(max_bytes=0))
    here = Place.here()
    assert SageQueueDescriptor.refusal(here, here) is None
    assert SageQueueDescriptor.refusal(here, Place("elsewhere", 1)) is not None
    assert SharedMemoryQueueDescriptor.cost < SageQueueDescriptor.cost
