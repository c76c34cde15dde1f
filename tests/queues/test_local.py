"""The queue between threads."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sage.queues import BatchFull, Empty, Full, LocalQueue, LocalQueueDescriptor, QueueClosed
from sage.queues.sizes import size_of
from sage.testing import check_queue, check_queue_bytes


def test_the_contract() -> None:
    check_queue(LocalQueue)


def test_the_contract_where_bytes_count() -> None:
    check_queue(lambda maxsize: LocalQueueDescriptor(maxsize=maxsize, max_bytes=10**9).create())
    check_queue_bytes(lambda max_bytes: LocalQueueDescriptor(max_bytes=max_bytes).create())


class Node:
    def __init__(self, payload: Any) -> None:
        self.payload = payload
        self.itself = self


@pytest.mark.parametrize(
    "item",
    [
        bytes(100_000),
        [b"x" * 1_000, *(bytes([number]) * 1_000 for number in range(99))],
        {"text": "x" * 100_000},
        numpy.zeros(12_500),
        numpy.zeros(50_000)[:12_500],
        Node([bytearray(100_000)]),
    ],
    ids=lambda item: type(item).__name__,
)
def test_the_size_of_an_item_is_that_of_what_it_holds(item: Any) -> None:
    assert 100_000 <= size_of(item) < 110_000


class BesideAModel(RuleBasedStateMachine):
    """Every sequence of calls does to the queue what it does to a list."""

    @initialize(maxsize=st.sampled_from([1, 2, 7, 2_500]))
    def begin(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue: LocalQueue[int] = LocalQueue(maxsize)
        self.model: list[int] = []
        self.closed = False
        self.puts = 0

    @rule(item=st.integers())
    def put(self, item: int) -> None:
        if self.closed:
            with pytest.raises(QueueClosed):
                self.queue.put(item)
        elif len(self.model) == self.maxsize:
            with pytest.raises(Full):
                self.queue.put_nowait(item)
        else:
            self.queue.put(item)
            self.model.append(item)
            self.puts += 1

    @rule(size=st.integers(1, 3_000))
    def put_batch(self, size: int) -> None:
        items = list(range(size))
        room = 0 if self.closed else self.maxsize - len(self.model)
        if size <= room:
            self.queue.put_batch(items)
        else:
            with pytest.raises(QueueClosed if self.closed else BatchFull) as raised:
                self.queue.put_batch(items, timeout=0)
            assert list(raised.value.items) == items[room:]
        self.model += items[:room]
        self.puts += min(size, room)

    @rule(count=st.integers(1, 3_000))
    def get_batch(self, count: int) -> None:
        if self.model:
            assert self.queue.get_batch(count) == self.model[:count]
            del self.model[:count]
        else:
            with pytest.raises(QueueClosed if self.closed else Empty):
                self.queue.get_batch(count, timeout=0)

    @rule()
    def get(self) -> None:
        if self.model:
            assert self.queue.get() == self.model.pop(0)
        else:
            with pytest.raises(QueueClosed if self.closed else Empty):
                self.queue.get_nowait()

    @rule()
    def close(self) -> None:
        self.queue.close()
        self.closed = True

    @invariant()
    def holds_the_same(self) -> None:
        stats = self.queue.get_stats()
        assert stats.depth == self.queue.qsize() == len(self.model)
        assert (stats.total_puts, stats.total_gets) == (self.puts, self.puts - len(self.model))
        assert self.queue.full() == (len(self.model) == self.maxsize)
        assert self.queue.empty() == (not self.model)


TestBesideAModel = BesideAModel.TestCase
TestBesideAModel.settings = settings(max_examples=60, stateful_step_count=30)


def test_items_that_were_got_are_not_kept() -> None:
    class Thing:
        pass

    queue: LocalQueue[Thing] = LocalQueue(10)
    kept = [Thing() for _ in range(10)]
    watched = [weakref.ref(thing) for thing in kept]
    queue.put_batch(kept[:5])
    for thing in kept[5:]:
        queue.put(thing)
    del kept, thing
    for _ in range(10):
        queue.get()
    gc.collect()
    assert not any(reference() for reference in watched)


@pytest.mark.parametrize("maxsize", [1, 3, 1000])
def test_many_threads_with_every_kind_of_call(maxsize: int) -> None:
    queue: LocalQueue[int] = LocalQueue(maxsize)

    def produce(number: int) -> None:
        for index in range(3_000):
            while True:
                try:
                    queue.put(number * 10_000 + index, block=index % 50 != 0, timeout=0.05 if index % 3 else None)
                    break
                except Full:
                    continue

    def consume() -> list[int]:
        got = []
        while True:
            try:
                got.append(queue.get(timeout=0.05) if len(got) % 50 else queue.get_nowait())
            except Empty:
                time.sleep(0)  # a thread that never waits would keep the interpreter to itself
            except QueueClosed:
                return got

    with ThreadPoolExecutor(8) as threads:
        consumers = [threads.submit(consume) for _ in range(4)]
        for producer in [threads.submit(produce, number) for number in range(4)]:
            producer.result()
        queue.close()
        got = [item for consumer in consumers for item in consumer.result()]
    assert sorted(got) == [number * 10_000 + index for number in range(4) for index in range(3_000)]
