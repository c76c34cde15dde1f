"""Processes of one machine: against `multiprocessing` and pyzmq."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.queues.channels import pipe, plain, sage, unix_socket, zmq_ipc, zmq_tcp
from benchmarks.queues.harness import (
    CONTEXT,
    GIGABYTES,
    MICROSECONDS,
    RATE,
    AtLeast,
    Ends,
    Load,
    Row,
    Times,
    compare,
    ends_of,
    flow,
    in_processes,
    round_trip_us,
    small_items,
)
from benchmarks.queues.harness import arrays as arrays_of

from sage.queues import SharedMemoryQueueDescriptor

MAXSIZE = 10_000
ARRAY_BYTES = 1_000_000
ARRAYS_HELD = 64
"""As many as fit in SAGE's queue by its `max_bytes`."""
TRIPS = 3_000
_PATIENCE_S = 20.0  # pyzmq ipc hangs now and then
SINGLES = Load(100_000, small_items)
LISTS = Load(1_000_000, small_items, together=100, warm_up=100_000)
ARRAYS = Load(500, partial(arrays_of, ARRAY_BYTES), warm_up=100, mark=ends_of)

Makers = Mapping[str, Callable[[], Ends]]


def ours() -> Ends:
    return sage(SharedMemoryQueueDescriptor(maxsize=MAXSIZE))


def queue(maxsize: int = MAXSIZE) -> Ends:
    return plain(CONTEXT.Queue(maxsize))


def simple_queue() -> Ends:
    return plain(CONTEXT.SimpleQueue())


def rows(rounds: int) -> Iterator[Row]:
    standard: Makers = {"mp.Queue": queue, "mp.SimpleQueue": simple_queue, "mp.Pipe": pipe}
    yield from compare(
        "one by one",
        RATE,
        _flows({"SAGE": ours, "mp.Queue": queue, "pyzmq ipc": zmq_ipc}, SINGLES),
        [Times(15, "mp.Queue"), Times(1.5, "pyzmq ipc")],
        rounds,
    )
    peers = {**standard, "Unix socket": unix_socket, "pyzmq ipc": zmq_ipc, "pyzmq tcp": zmq_tcp}
    yield from compare("lists of 100", RATE, _flows({"SAGE": ours, **peers}, LISTS), [Times(1)], rounds)
    whole: Makers = {"SAGE": ours, "mp.Queue": partial(queue, ARRAYS_HELD), "mp.Pipe": pipe}
    out_of_band = partial(zmq_ipc, ARRAYS_HELD, out_of_band=True)
    measures = {name: _gigabytes(flow) for name, flow in _flows({**whole, "pyzmq ipc": out_of_band}, ARRAYS).items()}
    # The best way of multiprocessing is a pipe: its queues are pipes with a thread or a lock on top.
    yield from compare(
        "arrays of 1 MB",
        GIGABYTES,
        measures,
        [Times(3, "pyzmq ipc"), Times(10, "mp.Pipe"), Times(10, "mp.Queue")],
        rounds,
    )
    trips = {"SAGE": ours, **standard, "pyzmq ipc": zmq_ipc}
    yield from compare(
        "round trip",
        MICROSECONDS,
        {name: partial(_trips, make) for name, make in trips.items()},
        [AtLeast(60)],
        rounds,
    )


def _flows(makers: Makers, load: Load) -> dict[str, Callable[[], float]]:
    return {name: partial(_flow, make, load) for name, make in makers.items()}


def _flow(make: Callable[[], Ends], load: Load) -> float:
    return flow(make(), load, partial(in_processes, patience_s=_PATIENCE_S))


def _trips(make: Callable[[], Ends]) -> float:
    return round_trip_us(make(), make(), TRIPS)


def _gigabytes(measure: Callable[[], Any]) -> Callable[[], float]:
    return lambda: measure() * ARRAY_BYTES / 1e9
