"""Whether a queue keeps the contract of `sage.queues.queue`."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sage.errors import QueueClosed, QueueError
from sage.queues.queue import BatchFull, Empty, Full, Queue

MakeQueue = Callable[[int | None], Queue[Any]]

_SHORT_S = 0.01
_LONG_S = 20.0
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
        _check_walk(make, random.Random(seed + walk))


def check_queue_bytes(make: MakeQueue) -> None:
    """Check that the queues which `make(max_bytes)` returns hold so many bytes and no more, whatever puts them.

    `make` returns new, empty queues in which many items fit. What a kind itself needs for an item of 1,000
    bytes or more may count too, as long as it is less than 5%.
    """
    for size, count in ((1_000, 12), (100_000, 7)):
        max_bytes = count * size + (count * size // 20)
        for put in (_put_each, _put_batches, _put_at_once):
            with make(max_bytes) as queue:
                _check_bytes(queue, put, size, count)
                queue.detach()
    with make(300_000) as queue:
        queue.put(1)
        error = _raises(QueueError, lambda: queue.put(bytes(400_000)), "put of more than max_bytes")
        _demand(error.code == "E509", f"what can never fit is refused with E509, not {error.code}")
        queue.put(bytes(150_000))
        _raises(Full, lambda: queue.put(bytes(160_000), timeout=_SHORT_S), "put(timeout=0.01) of more bytes than fit")
        _demand(queue.get() == 1 and len(queue.get()) == 150_000, "what was put is got")
        queue.put(bytes(160_000), timeout=_LONG_S)
        _check_woken_for_bytes(queue)
        queue.detach()


def _check_bytes(queue: Queue[Any], put: Callable[[Queue[Any], int, int], int], size: int, count: int) -> None:
    what = f"items of {size:,} bytes, where {count} fit, by {put.__name__[1:]}"
    put_first = put(queue, size, count + 5)
    _demand(put_first == count == queue.qsize(), f"{put_first} were put, qsize() {queue.qsize()}: {what}")
    for taken in (1, 3):
        got = [queue.get() for _ in range(taken)]
        _demand(got == [bytes(size)] * taken, f"what was put is got: {what}")
        again = put(queue, size, count)
        _demand(again == taken, f"{again} were put after {taken} had been got: {what}")
    while not queue.empty():
        queue.get()
    _demand(put(queue, size, count + 5) == count, f"a queue that was emptied holds as much as a new one: {what}")


def _check_woken_for_bytes(queue: Queue[Any]) -> None:
    """In the queue, of 300,000 bytes, is an item of 160,000."""
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.put, bytes(150_000)), threads.submit(queue.put_batch, [bytes(150_000)])]
        sizes = [len(queue.get(timeout=_LONG_S)) for _ in range(3)]
        for entry in waiting:
            _within(entry)
    _demand(sizes == [160_000, 150_000, 150_000], f"puts that waited for bytes brought {sizes}")


def _put_each(queue: Queue[Any], size: int, most: int) -> int:
    """How many could be put."""
    for number in range(most):
        try:
            queue.put_nowait(bytes(size))
        except Full:
            return number
    return most


def _put_batches(queue: Queue[Any], size: int, most: int) -> int:
    """The same, by two."""
    for number in range(0, most, 2):
        try:
            queue.put_batch([bytes(size), bytes(size)], block=False)
        except BatchFull as full:
            return number + 2 - len(full.items)
    return most


def _put_at_once(queue: Queue[Any], size: int, most: int) -> int:
    """The same, as one batch."""
    try:
        queue.put_batch([bytes(size) for _ in range(most)], block=False)
    except BatchFull as full:
        return most - len(full.items)
    return most


def _check_order_and_capacity(make: MakeQueue) -> None:
    with make(3) as queue:
        _demand(queue.maxsize == 3 and queue.empty() and not queue.full(), "a new queue is empty")
        _raises(Empty, queue.get_nowait, "get_nowait() of an empty queue")
        for item in (1, None, ("three", 3.0)):
            queue.put(item)
        _demand(queue.full() and queue.qsize() == 3, f"3 of 3 items make it full; qsize() is {queue.qsize()}")
        _raises(Full, lambda: queue.put_nowait(4), "put_nowait() to a full queue")
        got = [queue.get(), queue.get(block=False), queue.get_nowait()]
        _demand(got == [1, None, ("three", 3.0)], f"items come as they were put, not {got}")
        queue.put_nowait(5)
        _demand(queue.get() == 5, "there is room again after a get")
        queue.detach()


def _check_unbounded(make: MakeQueue) -> None:
    with make(None) as queue:
        _demand(queue.maxsize is None, "None means any number of items")
        for item in range(2_000):
            queue.put_nowait(item)
        _demand(not queue.full() and queue.qsize() == 2_000, "a queue without maxsize is never full")
        _demand([queue.get() for _ in range(2_000)] == list(range(2_000)), "order of 2,000 items")
        queue.detach()


def _check_timeouts(make: MakeQueue) -> None:
    with make(1) as queue:
        _raises(ValueError, lambda: queue.get(timeout=-1), "get(timeout=-1)")
        _takes(_SHORT_S, lambda: _raises(Empty, lambda: queue.get(timeout=_SHORT_S), "get(timeout=0.01)"))
        _takes(_SHORT_S, lambda: _raises(Empty, lambda: queue.get_batch(5, timeout=_SHORT_S), "get_batch(5, 0.01)"))
        _raises(Empty, lambda: queue.get(timeout=0), "get(timeout=0) of an empty queue")
        queue.put(1, timeout=0)
        _takes(_SHORT_S, lambda: _raises(Full, lambda: queue.put(2, timeout=_SHORT_S), "put(timeout=0.01)"))
        _raises(Full, lambda: queue.put(2, timeout=0), "put(timeout=0) to a full queue")
        _raises(ValueError, lambda: queue.put(2, timeout=-1), "put(timeout=-1)")
        _raises(Full, lambda: queue.put(2, block=False, timeout=_LONG_S), "put(block=False, timeout=20)")
        queue.detach()


def _check_batches(make: MakeQueue) -> None:
    with make(10) as queue:
        queue.put_batch([])
        queue.put_batch(list(range(8)))
        rest = _raises(BatchFull, lambda: queue.put_batch([8, 9, 10, 11], block=False), "a batch larger than the room")
        _demand(list(rest.items) == [10, 11], f"BatchFull.items are those not put, not {rest.items}")
        rest = _raises(BatchFull, lambda: queue.put_batch([12], timeout=_SHORT_S), "put_batch(timeout=0.01)")
        _demand(list(rest.items) == [12], f"BatchFull.items are those not put, not {rest.items}")
        first = queue.get_batch(3)
        _demand(type(first) is list and first == [0, 1, 2], f"get_batch(3) brought {first}")
        _demand(queue.get() == 3, "get after get_batch")
        queue.put(10)
        _demand(queue.get_batch(100) == [4, 5, 6, 7, 8, 9, 10], "get_batch(100) takes what is there")
        _raises(ValueError, lambda: queue.get_batch(0), "get_batch(0)")
        source = [1, 2]
        queue.put_batch(source)
        source.append(3)
        _demand(queue.get_batch() == [1, 2], "a list may be changed after it was put")
        queue.detach()


def _check_woken_by_put(make: MakeQueue) -> None:
    with make(10) as queue, ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(queue.get, timeout=_LONG_S) for _ in range(3)]
        queue.put(0)
        queue.put_batch([1, 2])
        got = sorted(_within(entry) for entry in waiting)
        _demand(got == [0, 1, 2], f"three waiting gets brought {got}")
        queue.detach()


def _check_woken_by_get(make: MakeQueue) -> None:
    with make(2) as queue, ThreadPoolExecutor(3) as threads:
        queue.put_batch([0, 1])
        waiting = [threads.submit(queue.put, 2), threads.submit(queue.put_batch, [3, 4, 5])]
        got = [queue.get(timeout=_LONG_S) for _ in range(6)]
        for entry in waiting:
            _within(entry)
        _demand(got[:2] == [0, 1] and sorted(got) == list(range(6)), f"blocked puts arrived as {got}")
        _demand([item for item in got if item > 2] == [3, 4, 5], f"a batch arrived out of order: {got}")
        queue.detach()


def _check_close_with_items(make: MakeQueue) -> None:
    queue = make(3)
    queue.put_batch(["a", "b", "c"])
    queue.close()
    queue.close()
    _demand(queue.closed, "closed is True after close()")
    error = _raises(QueueClosed, lambda: queue.put("d"), "put after close")
    _demand(list(error.items) == ["d"], f"QueueClosed.items are those not put, not {error.items}")
    error = _raises(QueueClosed, lambda: queue.put_batch(["e", "f"], block=False), "put_batch after close")
    _demand(list(error.items) == ["e", "f"], f"QueueClosed.items are those not put, not {error.items}")
    _demand(queue.get() == "a" and list(queue) == ["b", "c"], "what is in a closed queue can be got")
    for get in (queue.get, queue.get_nowait, queue.get_batch, lambda: queue.get(timeout=_SHORT_S)):
        _raises(QueueClosed, get, "get at the end of a closed queue")
    queue.detach()
    queue.detach()
    queue.close()
    empty = make(1)
    empty.close()
    _raises(QueueClosed, empty.get, "get of a queue closed when it was empty")
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
        _until(lambda: sum(entry.running() for entry in waiting) == len(waiting))
        empty.close()
        full.close()
        for entry in waiting:
            _raises(QueueClosed, lambda entry=entry: _within(entry), "a wait when the queue is closed")  # type: ignore[misc]
    _demand(list(full) == ["first"], "closing keeps what was put, and nothing else")
    empty.detach()
    full.detach()


def _check_figures(make: MakeQueue) -> None:
    with make(100) as queue:
        queue.put("single")
        queue.put_batch(["a", "b", "c"])
        queue.put_batch(["d"])
        queue.flush(timeout=_LONG_S)
        _demand(queue.wait_for_pending_puts(timeout=_LONG_S), "nothing is pending after flush()")
        queue.get()
        queue.get_batch(2)
        stats = queue.get_stats()
        found = (stats.total_puts, stats.total_gets, stats.batch_puts, stats.batch_gets, stats.depth)
        _demand(found == (5, 3, 2, 1, 2), f"puts, gets, batch puts, batch gets, depth are {found}, not (5, 3, 2, 1, 2)")
        _demand(stats.avg_batch_size == 2.0, f"avg_batch_size is {stats.avg_batch_size}, not 2.0")
        queue.batch_size, queue.linger_ms = 7, 0.5
        _demand((queue.batch_size, queue.linger_ms) == (7, 0.5), "batch_size and linger_ms can be set")
        queue.detach()


def _check_threads(make: MakeQueue) -> None:
    queue = make(50)
    received: list[list[tuple[int, int]]] = [[] for _ in range(_THREADS)]
    with ThreadPoolExecutor(2 * _THREADS) as threads:
        consumers = [threads.submit(_consume, queue, number, seen) for number, seen in enumerate(received)]
        producers = [threads.submit(_produce, queue, number) for number in range(_THREADS)]
        for entry in producers:
            _within(entry)
        queue.close()
        for entry in consumers:
            _within(entry)
    counts = Counter(item for seen in received for item in seen)
    lost = _THREADS * _PER_THREAD - len(counts)
    repeated = [item for item, count in counts.items() if count > 1]
    _demand(not lost and not repeated, f"{lost} items lost, {len(repeated)} repeated: {repeated[:3]}")
    for seen in received:
        for number in range(_THREADS):
            own = [index for producer, index in seen if producer == number]
            _demand(own == sorted(own), f"a consumer saw items of producer {number} out of order")
    queue.detach()


def _produce(queue: Queue[Any], number: int) -> None:
    items = [(number, index) for index in range(_PER_THREAD)]
    for start in range(0, _PER_THREAD, 20):
        queue.put_batch(items[start : start + 7])
        for item in items[start + 7 : start + 20]:
            queue.put(item, timeout=_LONG_S)


def _consume(queue: Queue[Any], number: int, seen: list[tuple[int, int]]) -> None:
    if number % 2:
        seen.extend(queue)
        return
    while True:
        try:
            seen.extend(queue.get_batch(9, timeout=_LONG_S))
        except QueueClosed:
            return
        _demand(queue.qsize() <= 50, "more items than maxsize")


def _check_walk(make: MakeQueue, chance: random.Random) -> None:
    maxsize = chance.choice([1, 2, 5, 30])
    queue, model = make(maxsize), deque[int]()
    story: list[str] = [f"maxsize={maxsize}"]
    for item in range(200):
        step = chance.choice([_put_step, _put_batch_step, _get_step, _get_batch_step])
        story.append(step(queue, model, item, maxsize, chance))
        _demand(queue.qsize() == len(model), f"qsize() is {queue.qsize()}, not {len(model)}, after {story[-5:]}")
    queue.close()
    _demand(list(queue) == list(model), f"at the end the queue held something else than the model, after {story[-5:]}")
    queue.detach()


def _put_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    if len(model) == maxsize:
        _raises(Full, lambda: queue.put_nowait(item), "put_nowait() to a full queue")
    else:
        queue.put_nowait(item)
        model.append(item)
    return f"put {item}"


def _put_batch_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    items = [item * 1000 + index for index in range(chance.randrange(6))]
    room = maxsize - len(model)
    model.extend(items[:room])
    if len(items) <= room:
        queue.put_batch(items, block=False)
    else:
        full = _raises(BatchFull, lambda: queue.put_batch(items, block=False), "a batch larger than the room")
        _demand(list(full.items) == items[room:], f"BatchFull.items are {full.items}, not {items[room:]}")
    return f"put_batch {items}"


def _get_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    if not model:
        _raises(Empty, queue.get_nowait, "get_nowait() of an empty queue")
        return "get of nothing"
    got, expected = queue.get_nowait(), model.popleft()
    _demand(got == expected, f"get brought {got}, not {expected}")
    return f"get {got}"


def _get_batch_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    count = chance.randrange(1, 8)
    if not model:
        _raises(Empty, lambda: queue.get_batch(count, timeout=0), "get_batch of an empty queue")
        return "get_batch of nothing"
    got = queue.get_batch(count)
    expected = [model.popleft() for _ in range(min(count, len(model)))]
    _demand(got == expected, f"get_batch({count}) brought {got}, not {expected}")
    return f"get_batch {got}"


def _raises(kind: type[BaseException], work: Callable[[], object], story: str) -> Any:
    try:
        brought = work()
    except kind as error:
        return error
    raise AssertionError(f"{story}: must raise {kind.__name__}, but brought {brought!r}")


def _takes(seconds: float, work: Callable[[], object]) -> None:
    started = time.monotonic()
    work()
    took = time.monotonic() - started
    _demand(took >= seconds * 0.9, f"a timeout of {seconds} s was over after {took:.4f} s")


def _within(future: Future[Any]) -> Any:
    return future.result(timeout=_LONG_S)


def _until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + _LONG_S
    pause = threading.Event()
    while not condition():
        _demand(time.monotonic() < until, f"waited {_LONG_S} s in vain")
        pause.wait(0.001)


def _demand(condition: bool, story: str) -> None:
    if not condition:
        raise AssertionError(story)
