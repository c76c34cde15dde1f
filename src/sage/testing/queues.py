"""Whether a queue keeps the contract of `sage.queues.queue`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sage.errors import QueueClosed
from sage.queues.queue import BatchFull, Empty, Full, Queue
from sage.testing.queue_story import LONG_S, SHORT_S, demand, raises, takes, until, within
from sage.testing.queue_walk import check_walk

MakeQueue = Callable[[int | None], Queue[Any]]

_THREADS = 4  # producers, and as many consumers
_PER_THREAD = 2_000


def check_queue(make: MakeQueue, *, seed: int = 0) -> None:
    """Put the queues that `make(maxsize)` returns through everything that the contract promises; takes seconds.

    `make` is called many times and returns a new, empty queue; items are small and picklable. Checked: order, capacity,
    `Full` and `Empty`, timeouts, batches, waiting and being woken, close in every state, figures, a random walk beside
    a model, and eight threads at once without loss or repeat.
    """
    for check in (
        _check_order_and_capacity,
        _check_unbounded,
        _check_timeouts,
        _check_batches,
        _check_woken_by_put,
        _check_woken_by_get,
        _check_close_with_items,
        _check_close_wakes,
        _check_figures,
        _check_threads,
    ):
        check(make)
    for walk in range(10):
        check_walk(make, random.Random(seed + walk))


def _check_order_and_capacity(make: MakeQueue) -> None:
    with make(3) as queue:
        demand(queue.maxsize == 3 and queue.empty() and not queue.full(), "a new queue is empty")
        raises(Empty, queue.get_nowait, "get_nowait() of an empty queue")
        for item in (1, None, ("three", 3.0)):
            queue.put(item)
        demand(queue.full() and queue.qsize() == 3, f"3 of 3 items make it full; qsize() is {queue.qsize()}")
        raises(Full, lambda: queue.put_nowait(4), "put_nowait() to a full queue")
        got = [queue.get(), queue.get(block=False), queue.get_nowait()]
        demand(got == [1, None, ("three", 3.0)], f"items come as they were put, not {got}")
        queue.put_nowait(5)
        demand(queue.get() == 5, "there is room again after a get")
        queue.detach()


def _check_unbounded(make: MakeQueue) -> None:
    with make(None) as queue:
        demand(queue.maxsize is None, "None means any number of items")
        for item in range(2_000):
            queue.put_nowait(item)
        demand(not queue.full() and queue.qsize() == 2_000, "a queue without maxsize is never full")
        demand([queue.get() for _ in range(2_000)] == list(range(2_000)), "order of 2,000 items")
        queue.detach()


def _check_timeouts(make: MakeQueue) -> None:
    with make(1) as queue:
        raises(ValueError, lambda: queue.get(timeout=-1), "get(timeout=-1)")
        takes(SHORT_S, lambda: raises(Empty, lambda: queue.get(timeout=SHORT_S), "get(timeout=0.01)"))
        takes(SHORT_S, lambda: raises(Empty, lambda: queue.get_batch(5, timeout=SHORT_S), "get_batch(5, 0.01)"))
        raises(Empty, lambda: queue.get(timeout=0), "get(timeout=0) of an empty queue")
        queue.put(1, timeout=0)
        takes(SHORT_S, lambda: raises(Full, lambda: queue.put(2, timeout=SHORT_S), "put(timeout=0.01)"))
        raises(Full, lambda: queue.put(2, timeout=0), "put(timeout=0) to a full queue")
        raises(ValueError, lambda: queue.put(2, timeout=-1), "put(timeout=-1)")
        raises(Full, lambda: queue.put(2, block=False, timeout=LONG_S), "put(block=False, timeout=20)")
        queue.detach()


def _check_batches(make: MakeQueue) -> None:
    with make(10) as queue:
        queue.put_batch([])
        queue.put_batch(list(range(8)))
        rest = raises(BatchFull, lambda: queue.put_batch([8, 9, 10, 11], block=False), "a batch larger than the room")
        demand(list(rest.items) == [10, 11], f"BatchFull.items are those not put, not {rest.items}")
        rest = raises(BatchFull, lambda: queue.put_batch([12], timeout=SHORT_S), "put_batch(timeout=0.01)")
        demand(list(rest.items) == [12], f"BatchFull.items are those not put, not {rest.items}")
        first = queue.get_batch(3)
        demand(type(first) is list and first == [0, 1, 2], f"get_batch(3) brought {first}")
        demand(queue.get() == 3, "get after get_batch")
        queue.put(10)
        demand(queue.get_batch(100) == [4, 5, 6, 7, 8, 9, 10], "get_batch(100) takes what is there")
        raises(ValueError, lambda: queue.get_batch(0), "get_batch(0)")
        source = [1, 2]
        queue.put_batch(source)
        source.append(3)
        demand(queue.get_batch() == [1, 2], "a list may be changed after it was put")
        queue.detach()


def _check_woken_by_put(make: MakeQueue) -> None:
    with make(10) as queue, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(queue.get, timeout=LONG_S) for _ in range(3)]
        queue.put(0)
        queue.put_batch([1, 2])
        got = sorted(within(entry) for entry in waiting)
        demand(got == [0, 1, 2], f"three waiting gets brought {got}")
        queue.detach()


def _check_woken_by_get(make: MakeQueue) -> None:
    with make(2) as queue, ThreadPoolExecutor(3) as threads:
        queue.put_batch([0, 1])
        waiting = [threads.submit(queue.put, 2), threads.submit(queue.put_batch, [3, 4, 5])]
        got = [queue.get(timeout=LONG_S) for _ in range(6)]
        for entry in waiting:
            within(entry)
        demand(got[:2] == [0, 1] and sorted(got) == list(range(6)), f"blocked puts arrived as {got}")
        demand([item for item in got if item > 2] == [3, 4, 5], f"a batch arrived out of order: {got}")
        queue.detach()


def _check_close_with_items(make: MakeQueue) -> None:
    queue = make(3)
    queue.put_batch(["a", "b", "c"])
    queue.close()
    queue.close()
    demand(queue.closed, "closed is True after close()")
    error = raises(QueueClosed, lambda: queue.put("d"), "put after close")
    demand(list(error.items) == ["d"], f"QueueClosed.items are those not put, not {error.items}")
    error = raises(QueueClosed, lambda: queue.put_batch(["e", "f"], block=False), "put_batch after close")
    demand(list(error.items) == ["e", "f"], f"QueueClosed.items are those not put, not {error.items}")
    demand(queue.get() == "a" and list(queue) == ["b", "c"], "what is in a closed queue can be got")
    for get in (queue.get, queue.get_nowait, queue.get_batch, lambda: queue.get(timeout=SHORT_S)):
        raises(QueueClosed, get, "get at the end of a closed queue")
    queue.detach()
    queue.detach()
    queue.close()
    empty = make(1)
    empty.close()
    raises(QueueClosed, empty.get, "get of a queue closed when it was empty")
    empty.detach()


def _check_close_wakes(make: MakeQueue) -> None:
    empty, full = make(1), make(1)
    full.put("first")
    with ThreadPoolExecutor(4) as threads:
        waiting = [
            threads.submit(empty.get),
            threads.submit(empty.get_batch),
            threads.submit(full.put, "second"),
            threads.submit(full.put_batch, ["third"]),
        ]
        until(lambda: sum(entry.running() for entry in waiting) == len(waiting))
        empty.close()
        full.close()
        for entry in waiting:
            raises(QueueClosed, lambda entry=entry: within(entry), "a wait when the queue is closed")  # type: ignore[misc]
    demand(list(full) == ["first"], "closing keeps what was put, and nothing else")
    empty.detach()
    full.detach()


def _check_figures(make: MakeQueue) -> None:
    with make(100) as queue:
        queue.put("single")
        queue.put_batch(["a", "b", "c"])
        queue.put_batch(["d"])
        queue.flush(timeout=LONG_S)
        demand(queue.wait_for_pending_puts(timeout=LONG_S), "nothing is pending after flush()")
        queue.get()
        queue.get_batch(2)
        stats = queue.get_stats()
        found = (stats.total_puts, stats.total_gets, stats.batch_puts, stats.batch_gets, stats.depth)
        demand(found == (5, 3, 2, 1, 2), f"puts, gets, batch puts, batch gets, depth are {found}, not (5, 3, 2, 1, 2)")
        demand(stats.avg_batch_size == 2.0, f"avg_batch_size is {stats.avg_batch_size}, not 2.0")
        queue.batch_size, queue.linger_ms = 7, 0.5
        demand((queue.batch_size, queue.linger_ms) == (7, 0.5), "batch_size and linger_ms can be set")
        queue.detach()


def _check_threads(make: MakeQueue) -> None:
    queue = make(50)
    received: list[list[tuple[int, int]]] = [[] for _ in range(_THREADS)]
    with ThreadPoolExecutor(2 * _THREADS) as threads:
        consumers = [threads.submit(_consume, queue, number, seen) for number, seen in enumerate(received)]
        producers = [threads.submit(_produce, queue, number) for number in range(_THREADS)]
        for entry in producers:
            within(entry)
        queue.close()
        for entry in consumers:
            within(entry)
    counts = Counter(item for seen in received for item in seen)
    lost = _THREADS * _PER_THREAD - len(counts)
    repeated = [item for item, count in counts.items() if count > 1]
    demand(not lost and not repeated, f"{lost} items lost, {len(repeated)} repeated: {repeated[:3]}")
    for seen in received:
        for number in range(_THREADS):
            own = [index for producer, index in seen if producer == number]
            demand(own == sorted(own), f"a consumer saw items of producer {number} out of order")
    queue.detach()


def _produce(queue: Queue[Any], number: int) -> None:
    items = [(number, index) for index in range(_PER_THREAD)]
    for start in range(0, _PER_THREAD, 20):
        queue.put_batch(items[start : start + 7])
        for item in items[start + 7 : start + 20]:
            queue.put(item, timeout=LONG_S)


def _consume(queue: Queue[Any], number: int, seen: list[tuple[int, int]]) -> None:
    if number % 2:
        seen.extend(queue)
        return
    while True:
        try:
            seen.extend(queue.get_batch(9, timeout=LONG_S))
        except QueueClosed:
            return
        demand(queue.qsize() <= 50, "more items than maxsize")
