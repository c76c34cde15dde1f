"""Whether a queue holds as many bytes as it is said to, and no more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sage.errors import QueueError
from sage.queues.queue import BatchFull, Full, Queue
from sage.testing.queue_story import LONG_S, SHORT_S, demand, raises, within

MakeQueue = Callable[[int], Queue[Any]]


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
        error = raises(QueueError, lambda: queue.put(bytes(400_000)), "put of more than max_bytes")
        demand(error.code == "E509", f"what can never fit is refused with E509, not {error.code}")
        queue.put(bytes(150_000))
        raises(Full, lambda: queue.put(bytes(160_000), timeout=SHORT_S), "put(timeout=0.01) of more bytes than fit")
        demand(queue.get() == 1 and len(queue.get()) == 150_000, "what was put is got")
        queue.put(bytes(160_000), timeout=LONG_S)
        _check_woken_for_bytes(queue)
        queue.detach()


def _check_bytes(queue: Queue[Any], put: Callable[[Queue[Any], int, int], int], size: int, count: int) -> None:
    what = f"items of {size:,} bytes, where {count} fit, by {put.__name__[1:]}"
    put_first = put(queue, size, count + 5)
    demand(put_first == count == queue.qsize(), f"{put_first} were put, qsize() {queue.qsize()}: {what}")
    for taken in (1, 3):
        got = [queue.get() for _ in range(taken)]
        demand(got == [bytes(size)] * taken, f"what was put is got: {what}")
        again = put(queue, size, count)
        demand(again == taken, f"{again} were put after {taken} had been got: {what}")
    while not queue.empty():
        queue.get()
    demand(put(queue, size, count + 5) == count, f"a queue that was emptied holds as much as a new one: {what}")


def _check_woken_for_bytes(queue: Queue[Any]) -> None:
    """In the queue, of 300,000 bytes, is an item of 160,000."""
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.put, bytes(150_000)), threads.submit(queue.put_batch, [bytes(150_000)])]
        sizes = [len(queue.get(timeout=LONG_S)) for _ in range(3)]
        for entry in waiting:
            within(entry)
    demand(sizes == [160_000, 150_000, 150_000], f"puts that waited for bytes brought {sizes}")


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
