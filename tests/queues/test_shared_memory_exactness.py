"""What a queue between processes tells is so, whatever others hold: gathered items, reserved places, items at hand."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
from making import made
from processes import Other

from conftest import Wait
from patience import DEADLINE_S
from sage.queues import BatchFull, Empty, Full, QueueClosed, QueueError, SharedMemoryQueue, SharedMemoryQueueDescriptor
from sage.queues.frames import Frame, pack, pack_many, unpack

Make = Callable[..., tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]]
FOREVER_MS = 1e6


@pytest.fixture
def make() -> Iterator[Make]:
    """New queues, whose files are gone after the test."""
    yield from made(SharedMemoryQueueDescriptor, SharedMemoryQueue, lambda descriptor: descriptor.path)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are asked for what they hold until they have answered, however slow the machine is."""
    monkeypatch.setattr("sage.queues.waiting.SETTLE_S", DEADLINE_S)


GATHER = f"""
queue = descriptor.open()
queue.linger_ms = {FOREVER_MS}
for index in range(10):
    queue.put(index)
say(queue.get_stats().buffer_size)
"""
"""Another process with gathered items, and places that are reserved for more."""


@pytest.mark.usefixtures("patient")
def test_what_another_process_put_is_got_at_once(make: Make) -> None:
    descriptor, queue = make()
    with Other(descriptor, GATHER + "hear()\n") as producer:
        assert int(producer.hear()) > 0
        assert [queue.get_nowait() for _ in range(10)] == list(range(10))
        with pytest.raises(Empty):
            queue.get_nowait()


@pytest.mark.usefixtures("patient")
def test_sizes_count_what_another_process_gathered(make: Make) -> None:
    descriptor, queue = make(maxsize=1_000)
    with Other(descriptor, GATHER + "hear()\n") as producer:
        assert int(producer.hear()) > 0
        assert queue.qsize() == 10


@pytest.mark.usefixtures("patient")
def test_places_that_another_process_reserved_are_no_reason_to_be_full(make: Make) -> None:
    descriptor, queue = make(maxsize=100)
    queue.batch_size = 1
    with Other(descriptor, GATHER + "hear()\n") as producer:
        assert int(producer.hear()) > 0
        for index in range(90):
            queue.put_nowait(index)
        with pytest.raises(Full):
            queue.put_nowait(90)
        assert queue.qsize() == 100


@pytest.mark.usefixtures("patient")
def test_a_closed_queue_is_at_its_end_when_nobody_holds_anything(make: Make) -> None:
    descriptor, queue = make()
    with Other(
        descriptor, GATHER + "hear()\ntry:\n    queue.put(10)\nexcept QueueClosed:\n    say('closed')\n"
    ) as other:
        assert int(other.hear()) > 0
        queue.close()
        assert list(queue) == list(range(10))
        other.say("go on")
        assert other.hear() == "closed"


def test_nobody_has_to_flush(make: Make) -> None:
    descriptor, queue = make()
    with Other(descriptor, "queue = descriptor.open()\nfor index in range(10):\n    queue.put(index)\nhear()\n"):
        assert [queue.get(timeout=DEADLINE_S) for _ in range(10)] == list(range(10))


@pytest.mark.parametrize("end", ["", "queue.detach()", "import sys\nsys.exit(1)"])
def test_what_was_gathered_leaves_with_its_process(make: Make, end: str) -> None:
    descriptor, queue = make()
    with Other(descriptor, GATHER + end) as producer:
        assert int(producer.hear()) > 0
        producer.process.wait(DEADLINE_S)
        assert queue.get_batch() == list(range(10))
        with pytest.raises(Empty):  # nobody died
            queue.get(timeout=0.6)


def test_a_killed_producer_takes_what_it_gathered_and_no_places(make: Make, wait_until: Wait) -> None:
    descriptor, queue = make(maxsize=100)
    with Other(descriptor, GATHER + "hear()\n") as producer:
        gathered = int(producer.hear())
        producer.kill()
        left = 10 - gathered
        items: Sequence[Any] = range(200)

        def are_100_in() -> bool:
            """A put that has to wait notices the death."""
            nonlocal items
            with pytest.raises(BatchFull) as full:
                queue.put_batch(items, timeout=0.6)
            items = full.value.items
            return len(items) <= 100 + left

        wait_until(are_100_in)
        assert len(items) == 100 + left
        assert queue.qsize() == 100


def test_a_stopped_producer_keeps_what_it_holds_and_no_more(make: Make) -> None:
    descriptor, queue = make(maxsize=100)
    with Other(descriptor, GATHER + "hear()\nqueue.flush()\nsay('sent')\nhear()\n") as producer:
        left = 10 - int(producer.hear())
        producer.send(signal.SIGSTOP)
        queue.put_batch(["own"] * 50)
        assert len(queue.get_batch(100)) == left + 50
        with pytest.raises(Empty):
            queue.get_nowait()
        producer.send(signal.SIGCONT)
        producer.say("go on")
        assert producer.hear() == "sent"
        assert queue.get_batch(100) == list(range(left, 10))


def test_an_item_is_in_the_ring_when_its_put_returns_if_nothing_is_gathered(make: Make) -> None:
    descriptor, queue = make()
    program = "queue = descriptor.open()\nqueue.batch_size = 1\nfor index in range(10):\n    queue.put(index)\n"
    with Other(descriptor, program + "say('put')\nhear()\n") as producer:
        assert producer.hear() == "put"
        producer.kill()
        assert queue.get_batch() == list(range(10))


def test_items_arrive_as_they_were_put(make: Make) -> None:
    _, queue = make()
    item, array = [0], numpy.zeros(3)
    for turn in range(20):
        item[0] = turn
        array[:] = turn
        queue.put((item, array))
    got = [queue.get() for _ in range(20)]
    assert [(first[0], second[0]) for first, second in got] == [(turn, turn) for turn in range(20)]


def test_only_the_item_at_fault_is_refused_and_only_the_spoiled_one_is_dropped(make: Make) -> None:
    _, queue = make()
    for index in range(5):
        queue.put(index)
        with pytest.raises(QueueError, match="E509"):
            queue.put(lambda: 0)
    queue.put(Spoiled())
    queue.put(5)
    queue.flush()
    assert [queue.get_nowait() for _ in range(5)] == list(range(5))
    with pytest.raises(QueueError, match="E509"):
        queue.get_nowait()
    assert queue.get_nowait() == 5


class Spoiled:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_large_plain_items_among_small_ones(make: Make) -> None:
    _, queue = make(max_bytes=10_000_000)
    texts = ["x" * size for size in (10, 100_000, 20, 1_000_000, 30, 70_000)] * 3
    for text in texts:
        queue.put(text)
    assert [queue.get() for _ in texts] == texts


def test_bytes_are_counted_exactly_wherever_the_ring_begins_anew(make: Make) -> None:
    _, queue = make(max_bytes=50_000)
    queue.batch_size = 1
    item = b"x" * 900  # 944 bytes in the ring
    for turn in range(120):  # more than once around
        for _ in range(52):
            queue.put_nowait(item)
        with pytest.raises(Full):
            queue.put_nowait(item)
        assert queue.get_batch(1 + turn % 52)
        queue.put_nowait(item)
        while not queue.empty():
            queue.get_batch(60)


OPENED_AGAIN = """
queue = descriptor.open()
queue.put(1)
queue.detach()
again = descriptor.open()
again.put(2)
again.flush()
import gc
del queue
gc.collect()
say("open")
hear()
"""


def test_a_handle_that_was_given_up_does_not_take_the_locks_of_the_next_one_along(make: Make) -> None:
    descriptor, queue = make()
    with Other(descriptor, OPENED_AGAIN) as other:
        assert other.hear() == "open"
        assert [queue.get(timeout=DEADLINE_S) for _ in range(2)] == [1, 2]
        with pytest.raises(Empty):  # nobody died
            queue.get(timeout=0.7)


def test_items_wait_for_company_where_nothing_adapts(make: Make) -> None:
    _, queue = make(adaptive=False)
    queue.linger_ms, queue.batch_size = FOREVER_MS, 3
    for number in range(3):
        queue.put(number)
        assert queue.get_stats().buffer_size == number + 1
    queue.put(3)
    assert queue.get_stats().buffer_size == 1
    assert [queue.get_nowait() for _ in range(4)] == list(range(4))


@pytest.mark.usefixtures("patient")
def test_a_lone_item_leaves_at_once_where_frames_adapt(make: Make) -> None:
    _, queue = make()
    queue.linger_ms = FOREVER_MS
    queue.put(0)
    assert queue.get_stats().buffer_size == 0


RACE = """
queue = descriptor.open()
number = int(hear())
queue.batch_size = int(hear())
put = 0
while put < 3000:
    try:
        queue.put_nowait(number * 10000 + put)
        put += 1
    except Full:
        pass
queue.detach()
"""


@pytest.mark.parametrize(("maxsize", "batch_size"), [(1, 100), (7, 100), (50, 100), (50, 1)])
def test_producers_that_race_for_the_last_places(make: Make, maxsize: int, batch_size: int) -> None:
    descriptor, queue = make(maxsize=maxsize)
    with Other(descriptor, RACE) as first, Other(descriptor, RACE) as second:
        for number, other in enumerate((first, second)):
            other.say(str(number))
            other.say(str(batch_size))
        got = []
        while len(got) < 6_000:
            assert queue._ring.depth() <= maxsize
            got += queue.get_batch(5, timeout=DEADLINE_S) if len(got) % 2 else [queue.get(timeout=DEADLINE_S)]
        for number in range(2):
            assert [item % 10_000 for item in got if item // 10_000 == number] == list(range(3_000))


# --- forks ---


def _work(queue: SharedMemoryQueue[Any], count: int) -> None:
    for index in range(count):
        queue.put(("child", index))


def test_a_forked_child_puts_and_gets_on_its_own(make: Make) -> None:
    _, queue = make()
    queue.linger_ms = FOREVER_MS
    for index in range(10):
        queue.put(("parent", index))
    child = multiprocessing.get_context("fork").Process(target=_work, args=(queue, 30))
    child.start()
    for index in range(10, 20):
        queue.put(("parent", index))
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    found = Counter(queue.get_nowait() for _ in range(50))
    assert found == Counter([("parent", index) for index in range(20)] + [("child", index) for index in range(30)])
    with pytest.raises(Empty):  # the child left; nobody died
        queue.get(timeout=0.6)


def test_the_death_of_a_forked_child_is_noticed(make: Make) -> None:
    _, queue = make()
    pid = os.fork()
    if not pid:
        queue.put("last")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert queue.get(timeout=DEADLINE_S) == "last"
    with pytest.raises(QueueError, match="E506 the last producer died"):
        queue.get()


FORK_WITH_HANDLES_GIVEN_UP = """
import os
given_up = []
for _ in range(5):
    given_up.append(descriptor.open())
    given_up[-1].detach()
queue = descriptor.open()
say([queue.get() for _ in range(3)])
if not os.fork():
    os._exit(0)
os.wait()
say("forked")
"""
FORK_IN_A_CHILD = """
import os
queue = descriptor.open()
waits, goes_on = os.pipe()
if not os.fork():
    os.read(waits, 1)
    if not os.fork():
        os._exit(0)
    os.wait()
    os._exit(0)
say([queue.get() for _ in range(3)])
os.write(goes_on, b"!")
os.wait()
say("forked")
"""
GO_ON = """
hear()
say([queue.get() for _ in range(3)])
"""


@pytest.mark.parametrize("program", [FORK_WITH_HANDLES_GIVEN_UP, FORK_IN_A_CHILD], ids=["given up", "in a child"])
@pytest.mark.usefixtures("patient")
def test_a_fork_gives_back_nothing_of_another_handle(make: Make, program: str) -> None:
    descriptor, queue = make()
    queue.put_batch(list(range(20)))
    with Other(descriptor, program + GO_ON) as consumer:
        assert consumer.hear() == "[0, 1, 2]"
        assert consumer.hear() == "forked"
        assert queue.get_batch(3, timeout=DEADLINE_S) == [3, 4, 5]
        consumer.say("go on")
        assert consumer.hear() == "[6, 7, 8]"


def test_nobody_waits_in_a_forked_child(make: Make, wait_until: Wait) -> None:
    _, queue = make()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.get, timeout=DEADLINE_S)
        wait_until(queue.is_wanted)
        pid = os.fork()
        if not pid:
            os._exit(queue.is_wanted() or queue.get_stats().get_wait_s > 0)
        assert os.waitpid(pid, 0)[1] == 0
        queue.put("an item")
        assert waiting.result() == "an item"


# --- large items ---

KILLED_WHILE_TAKING = """
import os, signal
from sage.queues.ring import Ring
queue = descriptor.open()
when = hear()
commit = Ring._commit
def killed(self, *args):
    if when == "after":
        commit(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
Ring._commit = killed
queue.get()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_area_of_a_consumer_killed_at_the_wrong_moment_is_not_lost(make: Make, when: str) -> None:
    descriptor, queue = make(max_bytes=600_000)  # two areas
    queue.put(numpy.ones(25_000))
    with Other(descriptor, KILLED_WHILE_TAKING) as consumer:
        consumer.say(when)
        consumer.process.wait(DEADLINE_S)
    if when == "before":
        assert queue.get(timeout=DEADLINE_S).sum() == 25_000
    with pytest.raises(Empty):
        queue.get(timeout=0.7)
    for _ in range(2):
        queue.put(numpy.ones(25_000), timeout=DEADLINE_S)
    assert len(queue.get_batch()) == 2


def test_areas_that_are_too_small_make_room_for_larger_ones(make: Make) -> None:
    descriptor, queue = make(max_bytes=40_000_000)
    for size in (9_000, 20_000, 100_000, 400_000, 4_000_000):
        for _ in range(40_000_000 // (16 * size) or 1):
            queue.put_nowait(numpy.ones(size))
        while not queue.empty():
            queue.get()
    assert descriptor.path.stat().st_blocks * 512 < 80_000_000
    with Other(descriptor, "SharedMemoryQueueDescriptor().create()\nsay('swept')\n") as other:
        assert other.hear() == "swept"
        assert descriptor.path.exists()  # the locks that tell that this process is alive are still there


# --- what a server sees ---


class Server:
    def __init__(self, queue: SharedMemoryQueue[Any]) -> None:
        self.queue = queue
        self.places = queue.reserve(10)
        self.frames: list[Frame] = []

    def settle(self, timeout_s: float, *, places: bool = True, items: bool = False) -> None:
        for frame in self.frames:
            assert self.queue.put_frame(frame)
            self.places -= frame.items
        self.frames.clear()
        self.queue.release(self.places)
        self.places = 0


@pytest.mark.parametrize("other_process", [False, True])
def test_a_server_settles_before_anything_is_told(make: Make, other_process: bool) -> None:
    descriptor, queue = make(maxsize=20)
    server = Server(queue)
    queue.attach_server(server)
    server.frames = [pack("a"), pack_many(["b", "c"]), pack(numpy.ones(20_000))]
    if other_process:
        program = "import sage.queues.waiting\nsage.queues.waiting.SETTLE_S = 100\nqueue = descriptor.open()\n"
        program += "say([str(queue.get_nowait())[:1] for _ in range(4)])\nhear()\n"
        with Other(descriptor, program) as other:
            assert other.hear() == "['a', 'b', 'c', '[']"
    else:
        assert queue.qsize() == 4
        assert [queue.get_nowait() for _ in range(3)] == ["a", "b", "c"]
    assert server.places == 0
    queue.detach_server(server)


def test_frames_pass_as_they_are(make: Make) -> None:
    _, queue = make(maxsize=100)
    sent = [pack(Spoiled()), pack_many([1, 2, 3]), pack_many([numpy.full(20_000, 7.0), "small"])]
    assert queue.reserve(1_000) == 100
    for frame in sent:
        assert queue.put_frame(frame)
    queue.release(94)
    first, second = queue.take_frames(4)
    assert (first.data, second.data) == (sent[0].data, sent[1].data)
    (third,) = queue.take_frames(4)
    assert queue.qsize() == 6
    queue.confirm(6)
    assert queue.qsize() == 0
    array, small = unpack(third)
    assert array[-1] == 7.0
    assert small == "small"
    queue.put_batch(range(10))
    assert [unpack(frame) for frame in queue.take_frames(4)] == [[0, 1, 2, 3]]
    queue.put_batch(range(90))
    with pytest.raises(Full):
        queue.put_nowait(0)
    queue.confirm(4)
    queue.put_nowait(0)
    assert len(queue.get_batch(1)) == 1
    queue.close()
    assert sum(len(unpack(frame)) for frame in [*queue.take_frames(100), *queue.take_frames(100)]) == 96
    with pytest.raises(QueueClosed):
        queue.take_frames(1)
    with pytest.raises(QueueClosed):
        queue.reserve(1)
