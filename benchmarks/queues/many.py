"""What holds for a queue of each kind, however quick it is.

4 producers and 4 consumers: nothing is lost, doubled or out of its producer's order. Nobody gets: it holds what it may.
"""

from __future__ import annotations

import statistics
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.queues.channels import free_port
from benchmarks.queues.harness import CONTEXT, RATE, Row, check, in_processes, in_threads
from benchmarks.queues.ray import in_actors, new_barrier, ray_here

from sage.queues import (
    Full,
    LocalQueueDescriptor,
    QueueClosed,
    QueueDescriptor,
    RayQueueDescriptor,
    RPCQueueDescriptor,
    SageQueueDescriptor,
    SharedMemoryQueueDescriptor,
    new_key,
)

ENDS = 4
ITEMS = 10_000_000
TOGETHER = 100
MAXSIZE = 10_000
MEGABYTE = 1_000_000
FITTING = 8
MAX_BYTES = FITTING * MEGABYTE + 100_000


@dataclass
class PutMany:
    """Puts its share, numbers of its own in rising order, and closes the queue when all producers have ended."""

    address: str
    index: int
    share: int
    ended: Any
    """A barrier of the producers."""

    def ready(self) -> None:
        self._queue: Any = QueueDescriptor.from_json(self.address).queue_instance

    def run(self) -> float:
        started = time.perf_counter()
        first = self.index * self.share
        for start in range(first, first + self.share, TOGETHER):
            self._queue.put_batch(range(start, min(start + TOGETHER, first + self.share)))
        self._queue.wait_for_pending_puts()
        self.ended.wait()
        self._queue.close()
        self._queue.detach()
        return started


@dataclass
class GetMany:
    """Gets until the queue is closed and empty; the result is when that was, and what came, as 8 bytes each."""

    address: str

    def ready(self) -> None:
        self._queue: Any = QueueDescriptor.from_json(self.address).queue_instance

    def run(self) -> tuple[float, bytes]:
        came = array("q")
        try:
            while True:
                came.extend(self._queue.get_batch(TOGETHER))
        except QueueClosed:
            ended = time.perf_counter()
        self._queue.detach()
        return ended, came.tobytes()


def many_to_many(descriptor: QueueDescriptor, run: Callable[..., list[Any]], barrier: Any, items: int = ITEMS) -> float:
    """Items a second, all of them checked."""
    address, share = descriptor.to_json(), items // ENDS
    jobs = [PutMany(address, index, share, barrier) for index in range(ENDS)]
    results = run(*jobs, *(GetMany(address) for _ in range(ENDS)))
    check_all([came for _, came in results[ENDS:]], share)
    return items / (max(ended for ended, _ in results[ENDS:]) - min(results[:ENDS]))


def check_all(parts: list[bytes], share: int) -> None:
    """Every number once, and at each consumer those of a producer in their order."""
    import numpy

    came = [numpy.frombuffer(part, dtype=numpy.int64) for part in parts]
    every = numpy.sort(numpy.concatenate(came))
    check(len(every), ENDS * share, f"{ENDS * share - len(every):,} of {ENDS * share:,} items are missing")
    check(bool((every == numpy.arange(ENDS * share)).all()), True, "some items came twice, and others not at all")
    for numbers in came:
        for producer in range(ENDS):
            own = numbers[numbers // share == producer]
            check(bool((numpy.diff(own) > 0).all()), True, "the items of a producer are not in order")


def held(descriptor: QueueDescriptor, item: Any) -> int:
    """How often `item` fits in a new queue from which nobody gets."""
    queue = descriptor.create()
    count = 0
    try:
        while True:
            queue.put_nowait(item)
            count += 1
    except Full:
        return count
    finally:
        queue.detach()


def rows(rounds: int) -> Iterator[Row]:
    local = partial(LocalQueueDescriptor, maxsize=MAXSIZE)
    yield from rows_of("local", local, lambda: many_to_many(local(), in_threads, threading.Barrier(ENDS)), rounds)
    for name, kind in (("shared memory", SharedMemoryQueueDescriptor), ("sage", SageQueueDescriptor)):
        make = partial(kind, maxsize=MAXSIZE)
        yield from rows_of(name, make, partial(_among_processes, make), rounds)
    yield from _of_bytes("local", LocalQueueDescriptor(max_bytes=MAX_BYTES))
    yield from _of_bytes("shared memory", SharedMemoryQueueDescriptor(max_bytes=MAX_BYTES))
    yield from _of_bytes("sage", SageQueueDescriptor(max_bytes=MAX_BYTES))
    yield from _of_bytes("rpc", RPCQueueDescriptor(port=free_port(), key=new_key(), max_bytes=MAX_BYTES))
    yield from rows_of("rpc", _rpc, _over_rpc, rounds)
    with ray_here():
        ours = partial(RayQueueDescriptor, maxsize=MAXSIZE)
        yield from _of_bytes("ray", RayQueueDescriptor(max_bytes=MAX_BYTES))
        yield from rows_of("ray", ours, partial(_among_actors, ours), rounds)


def _of_bytes(kind: str, descriptor: QueueDescriptor) -> Iterator[Row]:
    """How many arrays of 1 MB are held by a queue in which 8 fit."""
    fits = FITTING
    count = held(descriptor, bytes(MEGABYTE))
    yield Row(f"{kind}, max_bytes {MAX_BYTES:,}: of 1 MB", f"{count}", "", "", None, f"= {fits}", count == fits)


def _rpc() -> QueueDescriptor:
    return RPCQueueDescriptor(port=free_port(), key=new_key(), maxsize=MAXSIZE)


def _over_rpc() -> float:
    """The owner is this process, and neither puts nor gets."""
    descriptor = _rpc()
    owner = descriptor.create()
    try:
        return many_to_many(descriptor, in_processes, CONTEXT.Barrier(ENDS))
    finally:
        owner.detach()


def _among_actors(make: Callable[[], QueueDescriptor]) -> float:
    """All ends are actors of this node; this process owns the queue."""
    descriptor = make()
    owner = descriptor.create()
    try:
        return many_to_many(descriptor, in_actors, new_barrier(ENDS))
    finally:
        owner.detach()


def _among_processes(make: Callable[[], QueueDescriptor]) -> float:
    return many_to_many(make(), in_processes, CONTEXT.Barrier(ENDS))


def rows_of(
    kind: str, descriptor: Callable[[], QueueDescriptor], measure: Callable[[], float], rounds: int
) -> Iterator[Row]:
    """The rows of one kind."""
    figure = statistics.median(measure() for _ in range(max(1, rounds // 2)))
    yield Row(f"{kind}, 4 to 4, items/s", RATE.text(figure), "", "", None, f"all {ITEMS:,}", True)
    count = held(descriptor(), "item")
    yield Row(f"{kind}, maxsize {MAXSIZE:,}: holds", f"{count:,}", "", "", None, f"= {MAXSIZE:,}", count == MAXSIZE)
