"""Queues reached through a server: the contract, over good and bad connections, and who may use them."""

import os
import pickle
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from proxy import Proxy
from serving import KEY, Served, start_collector_of_pyzmq

from patience import DEADLINE_S
from ports import free_port
from sage.errors import QueueBroken, QueueClosed, QueueError
from sage.queues import (
    BatchFull,
    Empty,
    Full,
    LocalQueueDescriptor,
    Queue,
    QueueStats,
    SharedMemoryQueueDescriptor,
)
from sage.queues.remote.keys import new_key
from sage.queues.remote.link import link_to
from sage.queues.remote.queue import RemoteQueue
from sage.queues.remote.server import QueueServer
from sage.queues.remote.stream import NOBODY, Header, Sort, split
from sage.queues.remote.zeromq import ZeroMQConnection
from sage.testing import check_queue, check_queue_bytes

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module", autouse=True)
def collector() -> None:
    start_collector_of_pyzmq()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


class TwoEnds(Queue[Any]):
    """Puts go through one handle, gets through another."""

    def __init__(self, putting: Queue[Any], getting: Queue[Any]) -> None:
        self.putting, self.getting = putting, getting
        super().__init__()

    @property
    def maxsize(self) -> int | None:
        return self.getting.maxsize

    @property
    def closed(self) -> bool:
        return self.getting.closed

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self.putting.put(item, block, timeout)

    def put_batch(self, items: Sequence[Any], block: bool = True, timeout: float | None = None) -> None:
        self.putting.put_batch(items, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self.getting.get(block, timeout)

    def get_batch(self, count: int = 100, timeout: float | None = None) -> list[Any]:
        """A batch may end where what was sent ahead ends: what is not here yet is asked for."""
        found = self.getting.get_batch(count, timeout)
        while len(found) < count:
            try:
                found.append(self.getting.get_nowait())
            except (Empty, QueueClosed):
                break
        return found

    def qsize(self) -> int:
        return self.putting.qsize()

    def flush(self, timeout: float | None = None) -> None:
        self.putting.flush(timeout)

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        return self.putting.wait_for_pending_puts(timeout)

    def get_stats(self) -> QueueStats:
        puts, gets = self.putting.get_stats(), self.getting.get_stats()
        return QueueStats(
            puts.total_puts, gets.total_gets, puts.batch_puts, 1, puts.avg_batch_size, 0, 0, 0, 0, 0, 0, gets.depth
        )

    def close(self) -> None:
        self.putting.close()

    def detach(self) -> None:
        self.putting.detach()
        self.getting.detach()


def test_the_contract_through_one_handle(served: Served) -> None:
    keep: RemoteQueue[int] = RemoteQueue(link_to(served.server.address, KEY), served.queue()._queue_id)
    check_queue(lambda maxsize: RemoteQueue(link_to(served.server.address, KEY), served.queue(maxsize)._queue_id))
    keep.detach()


def test_the_contract_where_the_owner_puts(served: Served) -> None:
    def make(maxsize: int | None) -> Queue[Any]:
        queue = served.queue(maxsize)
        return TwoEnds(queue, served.open(queue))

    check_queue(make)


def test_the_contract_where_the_owner_gets(served: Served) -> None:
    def make(maxsize: int | None) -> Queue[Any]:
        queue = served.queue(maxsize)
        return TwoEnds(served.open(queue), queue)

    check_queue(make)


def test_the_contract_where_both_ends_are_elsewhere(served: Served) -> None:
    def make(maxsize: int | None) -> Queue[Any]:
        queue = served.queue(maxsize)
        return TwoEnds(served.open(queue), served.open(queue))

    check_queue(make)


@pytest.mark.parametrize("ends", ["one handle", "owner puts", "owner gets", "two handles"])
def test_the_contract_of_bytes(served: Served, ends: str) -> None:
    def make(max_bytes: int) -> Queue[Any]:
        queue = served.queue(max_bytes=max_bytes)
        if ends == "one handle":
            return served.open(queue)
        putting = queue if ends == "owner puts" else served.open(queue)
        getting = queue if ends == "owner gets" else served.open(queue)
        return TwoEnds(putting, getting)

    check_queue_bytes(make)


# --- places, across handles ---


def test_full_is_told_only_when_it_is_true(served: Served) -> None:
    queue = served.queue(100)
    first, second = served.open(queue), served.open(queue)
    first.put(0)  # it was granted more places than it used
    for number in range(1, 100):
        second.put_nowait(number)
    for full in (first, second, queue):
        with pytest.raises(Full):
            full.put_nowait(100)
    assert queue.qsize() == first.qsize() == 100
    assert sorted(queue.get_batch(1_000)) == list(range(100))
    queue.put_nowait(1)


def test_the_owner_finds_room_that_others_only_reserved(served: Served) -> None:
    queue = served.queue(5)
    other = served.open(queue)
    other.put(0)
    for number in range(1, 5):
        queue.put_nowait(number)
    with pytest.raises(Full):
        queue.put(5, timeout=0.01)
    assert other.get_batch() == [0, 1, 2, 3, 4]
    queue.put_batch([5, 6, 7, 8, 9], block=False)


def test_empty_is_told_only_when_nobody_holds_an_item_back(served: Served) -> None:
    queue = served.queue()
    producer, consumer = served.open(queue), served.open(queue)
    producer.linger_ms = 10_000
    producer.put_batch([0, 1, 2])
    for number in range(3, 8):
        producer.put(number)  # the first left at once, those behind it are gathered
    assert [queue.get_nowait() for _ in range(7)] == list(range(7))
    assert consumer.get_nowait() == 7
    for end in (queue, consumer):
        with pytest.raises(Empty):
            end.get_nowait()


@pytest.mark.parametrize("where", ["elsewhere", "at the owner"])
@pytest.mark.parametrize("kind", [LocalQueueDescriptor, SharedMemoryQueueDescriptor])
def test_what_an_idle_consumer_was_sent_ahead_goes_to_who_waits(
    served: Served, kind: type[LocalQueueDescriptor | SharedMemoryQueueDescriptor], where: str
) -> None:
    """The idle ends keep some places for their puts: the last of ours have to wait for those too."""
    descriptor = kind(maxsize=5_000, max_bytes=1_000_000)
    queue = descriptor.create()
    served.server.serve(descriptor.queue_id, queue)
    idle = served.open(descriptor.queue_id)
    other = served.open(descriptor.queue_id) if where == "elsewhere" else queue
    queue.put_batch(list(range(5_000)))
    got = [idle.get() for _ in range(1_000)]  # so quickly that more are sent than are got
    rest = [other.get(timeout=DEADLINE_S) for _ in range(4_000)]
    assert sorted(got + rest) == list(range(5_000))
    queue.put_batch(["more", "still"])
    assert [idle.get(timeout=DEADLINE_S), idle.get(timeout=DEADLINE_S)] == ["more", "still"]
    assert idle.get_stats().total_gets == 1_002
    assert queue.qsize() == 0
    served.server.withdraw(descriptor.queue_id)
    queue.detach()


def test_a_consumer_that_leaves_gives_back_what_it_was_sent(served: Served) -> None:
    queue = served.queue(5_000)
    queue.put_batch(list(range(5_000)))
    got: list[int] = []
    for count in (500, 700, 1_000):
        leaving = served.open(queue)
        got += [leaving.get() for _ in range(count)]
        leaving.detach()
    comes = served.open(queue)  # nobody waits for the server to hear that others left, the owner neither
    got += [comes.get(timeout=DEADLINE_S) for _ in range(5_000 - len(got))]
    assert got == list(range(5_000))
    assert comes.empty()


def test_producers_of_few_items_leave_each_other_room_in_a_small_queue(served: Served) -> None:
    queue = served.queue(64)
    ends = [served.open(queue) for _ in range(4)]
    for end in ends:
        end.put(0)
    assert [queue.get(timeout=DEADLINE_S) for _ in ends] == [0] * 4
    free = queue.reserve(64)
    queue.release(free)
    assert free >= 64 // 2


def test_whole_batches_of_many_are_put_as_they_are_or_not_at_all(served: Served) -> None:
    queue = served.queue(100)
    ends = [served.open(queue) for _ in range(3)]

    def put(number: int) -> int:
        whole = 0
        for start in range(0, 700, 7):
            with suppress(Full):
                ends[number].put_whole([(number, start + index) for index in range(7)])
                whole += 7
        return whole

    with ThreadPoolExecutor(3) as threads:
        puts = [threads.submit(put, number) for number in range(3)]
        got: list[tuple[int, int]] = []
        while not all(running.done() for running in puts) or not queue.empty():
            with suppress(Empty):
                got += queue.get_batch(50, timeout=0.1)
    assert len(got) == sum(running.result() for running in puts) > 0
    for start in range(0, len(got), 7):
        number, first = got[start]
        assert got[start : start + 7] == [(number, first + index) for index in range(7)]


def test_a_whole_batch_finds_the_room_that_others_reserved_and_no_more(served: Served) -> None:
    queue = served.queue(1_000)
    one, other = served.open(queue), served.open(queue)
    other.put(0)  # reserves some more
    one.put_whole(list(range(999)))
    for full in ([1], list(range(1_001))):
        with pytest.raises(Full):
            one.put_whole(full)
    assert queue.qsize() == 1_000


def test_two_producers_race_for_the_last_place(served: Served) -> None:
    queue = served.queue(3)
    handles = [served.open(queue) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            queue.put_batch([0, 0])
            outcomes = list(threads.map(_try_to_put, handles))
            assert outcomes.count(True) == 1
            assert queue.qsize() == 3
            assert len(queue.get_batch()) == 3


def _try_to_put(handle: Queue[Any]) -> bool:
    try:
        handle.put_nowait(1)
    except Full:
        return False
    return True


def test_a_full_queue_does_not_hold_up_another_one_on_the_link(served: Served) -> None:
    slow, quick = served.queue(1), served.queue()
    to_slow: RemoteQueue[int] = RemoteQueue(link_to(served.server.address, KEY), slow._queue_id)
    to_quick: RemoteQueue[int] = RemoteQueue(link_to(served.server.address, KEY), quick._queue_id)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(to_slow.put_batch, [1, 2, 3])
        to_quick.put_batch(list(range(1_000)))
        assert len(quick.get_batch(1_000)) > 0
        assert not waiting.done()
        assert [slow.get(), slow.get(), slow.get()] == [1, 2, 3]
        waiting.result(DEADLINE_S)
    to_slow.detach()
    to_quick.detach()


def test_a_tail_is_never_stuck(served: Served) -> None:
    queue = served.queue()
    producer = served.open(queue)
    for number in range(250):
        producer.put(number)
    assert [queue.get(timeout=DEADLINE_S) for _ in range(250)] == list(range(250))


# --- items that cannot be delivered ---


class Bomb:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("not here")


def test_what_cannot_be_pickled_is_raised_with_the_items_and_the_rest_goes_on(served: Served) -> None:
    queue = served.queue()
    producer = served.open(queue)
    lock = threading.Lock()
    with pytest.raises(QueueError, match="E509") as raised:
        producer.put_batch([1, lock, 2])
    assert list(raised.value.items) == [lock]
    producer.put(3)
    producer.flush()
    assert [queue.get(timeout=DEADLINE_S) for _ in range(3)] == [1, 2, 3]


def test_what_cannot_be_unpickled_is_raised_to_the_producer(served: Served) -> None:
    queue = served.queue()
    producer = served.open(queue)
    bomb = Bomb()
    producer.put_batch([1, bomb, 2])
    with pytest.raises(QueueError, match="E509") as raised:
        producer.wait_for_pending_puts()
    assert list(raised.value.items) == [bomb]
    assert queue.get_batch() == [1, 2]


# --- who may use it ---


def test_a_wrong_key_is_refused(served: Served) -> None:
    with pytest.raises(QueueError, match="E504"):
        link_to(served.server.address, new_key())
    queue = served.queue()
    handle = served.open(queue)
    handle.put("still there")
    assert queue.get() == "still there"


def test_nobody_listens() -> None:
    with pytest.raises(QueueError, match="E504"):
        link_to(("127.0.0.1", free_port()), KEY)


def test_an_unknown_queue(served: Served) -> None:
    with pytest.raises(QueueError, match="E504"):
        RemoteQueue(link_to(served.server.address, KEY), "nothing")


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("canary",)


@pytest.mark.parametrize("seed", range(3))
def test_garbage_is_not_looked_at(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL" + bytes(48)  # ZeroMQ without authentication
    for data in (greeting + pickle.dumps(Canary()), chance.randbytes(5_000), pickle.dumps(Canary()), b"GET / HTTP/1.1"):
        with socket.create_connection(served.server.address) as plain:
            plain.sendall(data)
            plain.settimeout(0.05)
            try:
                while plain.recv(1_000):
                    pass
            except OSError:
                pass
    queue = served.queue()
    served.open(queue).put("alive")
    assert queue.get() == "alive"
    assert not Path("canary").exists()


def test_who_knows_the_key_and_talks_nonsense_is_shown_the_door(served: Served, wait_until: Wait) -> None:
    name = b"nonsense"
    answers: list[Any] = []
    connection = ZeroMQConnection(*served.server.address, KEY, name)

    def heard(sort: Sort) -> bool:
        connection.send([Header(Sort.PING, name, NOBODY, 1, 0).pack()])
        if parts := connection.receive(0.02):
            answers.append(split(parts[0]))
        return any(found is not None and found[0].sort is sort for found in answers)

    try:
        wait_until(lambda: heard(Sort.PONG))
        life = answers[-1][0].life
        connection.send([Header(Sort.MESSAGE, name, life, 1, 0).pack() + pickle.dumps(Canary())])
        connection.send([b"no header at all"])
        connection.send([Header(Sort.MESSAGE, name, b"anotherl", 1, 0).pack()])
        wait_until(lambda: heard(Sort.GONE))
    finally:
        connection.close()
    assert not Path("canary").exists()


# --- bad connections ---


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_repeated_while_connections_are_cut(served: Served, seed: int) -> None:
    queue = served.queue(500)
    chance = random.Random(seed)
    count = 6_000
    with Proxy(served.server.address) as first, Proxy(served.server.address) as second:
        producer, consumer = served.open(queue, first.address), served.open(queue, second.address)

        def produce() -> None:
            for start in range(0, count, 10):
                producer.put_batch(list(range(start, start + 5)))
                for number in range(start + 5, start + 10):
                    producer.put(number)
            assert producer.wait_for_pending_puts(DEADLINE_S)

        with ThreadPoolExecutor(1) as threads:
            producing = threads.submit(produce)
            came: list[int] = []
            cut_at = 0
            while len(came) < count:
                came += consumer.get_batch(50, timeout=DEADLINE_S)
                if len(came) > cut_at:
                    cut_at += chance.randrange(200, 1_500)
                    proxy = chance.choice([first, second])
                    chance.choice([proxy.cut, proxy.half_close])()
            producing.result(DEADLINE_S)
        assert came == list(range(count))
        producer.detach()
        consumer.detach()


def test_a_short_partition_is_survived(served: Served) -> None:
    queue = served.queue()
    with Proxy(served.server.address) as proxy:
        producer = served.open(queue, proxy.address)
        producer.put(1)
        assert queue.get() == 1
        proxy.stall()
        producer.put_batch([2, 3])
        assert not producer.wait_for_pending_puts(0.05)
        with pytest.raises(Empty):
            queue.get(timeout=0.01)
        proxy.flow()
        assert producer.wait_for_pending_puts(DEADLINE_S)
        assert queue.get_batch() == [2, 3]
        producer.detach()


def test_a_refused_connection_is_tried_again(served: Served) -> None:
    queue = served.queue()
    with Proxy(served.server.address) as proxy:
        producer = served.open(queue, proxy.address)
        producer.put(1)
        proxy.refuse()
        proxy.cut()
        producer.put(2)
        proxy.accept()
        assert producer.wait_for_pending_puts(DEADLINE_S)
        assert [queue.get(), queue.get()] == [1, 2]
        producer.detach()


def test_a_long_partition_breaks_the_queue_with_the_items(wait_until: Wait) -> None:
    served = Served(patience_s=0.5)
    queue = served.queue(4)
    with Proxy(served.server.address) as proxy:
        producer, consumer = served.open(queue, proxy.address), served.open(queue, proxy.address)
        producer.put_batch([1, 2])
        assert producer.wait_for_pending_puts(DEADLINE_S)
        proxy.stall()
        producer.put(3)
        with pytest.raises(QueueBroken) as raised:
            producer.wait_for_pending_puts(DEADLINE_S)
        assert list(raised.value.items) == [3]
        with pytest.raises(QueueBroken) as raised:
            producer.put(4)
        assert list(raised.value.items) == [4]
        with pytest.raises(QueueBroken):
            consumer.get()
        wait_until(lambda: _fits(queue, 2))  # what the silent client held is free again
        assert queue.get_batch() == [1, 2, 0, 0]
        producer.detach()
        consumer.detach()
    served.close()


def _fits(queue: Queue[Any], count: int) -> bool:
    try:
        queue.put_batch([0] * count, block=False)
    except BatchFull:
        return False
    return True


def test_the_end_of_the_server_breaks_the_queue() -> None:
    served = Served()
    queue = served.queue(1)
    handle = served.open(queue)
    handle.put("in the queue")
    with ThreadPoolExecutor(3) as threads:
        putting = threads.submit(handle.put, "waiting")
        served.server.close()
        with pytest.raises(QueueBroken) as raised:
            putting.result(DEADLINE_S)
    assert "waiting" in list(raised.value.items)
    with pytest.raises(QueueBroken):
        handle.get()
    with pytest.raises(QueueBroken):
        handle.qsize()
    served.close()


def test_another_life_of_the_server_is_not_taken_for_the_first() -> None:
    served = Served()
    queue = served.queue()
    with Proxy(served.server.address) as proxy:
        handle = served.open(queue, proxy.address)
        handle.put(1)
        assert handle.wait_for_pending_puts(DEADLINE_S)
        proxy.refuse()
        proxy.cut()
        host, port = served.server.address
        served.server.close()
        served.server = QueueServer(KEY, host, port)
        proxy.accept()
        with pytest.raises(QueueBroken):
            handle.get(timeout=DEADLINE_S)
        handle.detach()
    served.close()


def test_what_is_on_its_way_is_bounded_in_bytes(served: Served) -> None:
    queue = served.queue()
    with Proxy(served.server.address) as proxy:
        producer = served.open(queue, proxy.address)
        producer.put_batch([b"x" * 1_000_000] * 2)
        assert producer.wait_for_pending_puts(10)
        proxy.stall()
        with ThreadPoolExecutor(1) as threads:
            putting = threads.submit(producer.put_batch, [bytes([number]) * 1_000_000 for number in range(80)])
            with suppress(TimeoutError):  # where the places were given back before the stall
                putting.result(2.0)
            assert producer.get_stats().bytes_in < 40_000_000
            proxy.flow()
            putting.result(20.0)
        assert producer.wait_for_pending_puts(20)
        assert [item[0] for item in queue.get_batch()] == [*b"xx", *range(80)]
        producer.detach()
