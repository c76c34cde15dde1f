"""An only consumer takes the reading end on loan, with items or lists at hand: nobody else may notice."""

import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import made
from processes import Other

from patience import DEADLINE_S
from sage.queues import Empty, Full, SharedMemoryQueue, SharedMemoryQueueDescriptor

Make = Callable[..., tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """New queues, whose files are gone after the test."""
    yield from made(SharedMemoryQueueDescriptor, SharedMemoryQueue, lambda descriptor: descriptor.path)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are asked for what they hold until they have answered, however slow the machine is."""
    monkeypatch.setattr("sage.queues.waiting.SETTLE_S", DEADLINE_S)


ITEMS_AT_HAND = """
queue = descriptor.open()
for _ in range(20):
    last = queue.get()
say(last)
hear()
say(queue.get())
hear()
queue.detach()
say("given up")
hear()
"""
LISTS_AT_HAND = """
queue = descriptor.open()
for _ in range(4):
    last = queue.get_batch(5)
say(last[-1])
hear()
say(queue.get_batch(1)[0])
hear()
queue.detach()
say("given up")
hear()
"""
at_hand = pytest.mark.parametrize("program", [ITEMS_AT_HAND, LISTS_AT_HAND], ids=["items", "lists"])


def made_full(make: Make) -> tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]:
    """A queue of ten lists of five."""
    descriptor, queue = make(maxsize=50)
    for start in range(0, 50, 5):
        queue.put_batch(range(start, start + 5))
    return descriptor, queue


@at_hand
@pytest.mark.usefixtures("patient")
def test_a_second_consumer_gets_what_the_first_has_at_hand(make: Make, program: str) -> None:
    descriptor, queue = made_full(make)
    with Other(descriptor, program) as first:
        assert first.hear() == "19"
        assert [queue.get(timeout=DEADLINE_S) for _ in range(9)] == list(range(20, 29))
        first.say("go on")
        assert first.hear() == "29"
        assert queue.get_nowait() == 30
        assert queue.qsize() == 19


@at_hand
@pytest.mark.parametrize("way", ["get", "get_batch"])
def test_a_killed_consumer_takes_nothing_that_it_did_not_get(make: Make, program: str, way: str) -> None:
    descriptor, queue = made_full(make)
    with Other(descriptor, program) as first:
        assert first.hear() == "19"
        first.kill()
        got = []
        while len(got) < 30:
            got += [queue.get(timeout=DEADLINE_S)] if way == "get" else queue.get_batch(7, timeout=DEADLINE_S)
        assert got == list(range(20, 50))


@at_hand
@pytest.mark.usefixtures("patient")
def test_a_consumer_that_gives_up_its_handle_leaves_what_it_had_at_hand(make: Make, program: str) -> None:
    descriptor, queue = made_full(make)
    with Other(descriptor, program) as first:
        assert first.hear() == "19"
        first.say("one more")
        assert first.hear() == "20"
        first.say("give up")
        assert first.hear() == "given up"
        assert [queue.get_nowait() for _ in range(29)] == list(range(21, 50))


@at_hand
def test_a_stopped_consumer_keeps_the_others_waiting_but_not_for_ever(make: Make, program: str) -> None:
    descriptor, queue = made_full(make)
    with Other(descriptor, program) as first:
        assert first.hear() == "19"
        first.send(signal.SIGSTOP)
        with pytest.raises(Empty):
            queue.get(timeout=0.05)
        first.send(signal.SIGCONT)
        assert queue.get(timeout=DEADLINE_S) == 20


@at_hand
@pytest.mark.usefixtures("patient")
def test_places_are_free_as_soon_as_items_are_got(make: Make, program: str) -> None:
    descriptor, queue = made_full(make)
    with Other(descriptor, program) as consumer:
        assert consumer.hear() == "19"
        queue.put_batch(range(50, 70), timeout=DEADLINE_S)
        with pytest.raises(Full):
            queue.put_nowait(70)
        consumer.say("one more")
        assert consumer.hear() == "20"
        queue.put(70, timeout=DEADLINE_S)


PUTS = st.integers(1, 12).map(lambda count: ("put", count))
GETS = st.sampled_from([1, 3, 3, 5]).map(lambda count: ("get", count))


@given(st.lists(st.one_of(PUTS, GETS, st.just(("put", 3)), st.just(("single", 1))), max_size=60))
def test_an_only_consumer_may_change_how_many_it_wants(steps: list[tuple[str, int]]) -> None:
    queue = SharedMemoryQueueDescriptor(maxsize=None).create()
    expected: deque[int] = deque()
    try:
        for number, (what, count) in enumerate(steps):
            if what == "put":
                queue.put_batch(items := list(range(100 * number, 100 * number + count)))
                expected.extend(items)
            elif expected and what == "single":
                assert queue.get_nowait() == expected.popleft()
            elif expected:
                there = min(count, len(expected))
                assert queue.get_batch(count) == [expected.popleft() for _ in range(there)]
            stats = queue.get_stats()
            assert stats.depth == len(expected) == stats.total_puts - stats.total_gets
    finally:
        queue.detach()
