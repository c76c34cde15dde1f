"""Threads of one process: against the standard library's `queue.Queue`."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.queues.channels import plain
from benchmarks.queues.harness import (
    MICROSECONDS,
    RATE,
    AtLeast,
    Ends,
    Load,
    Row,
    Times,
    compare,
    flow,
    in_threads,
    round_trip_us,
)

from sage.queues import LocalQueue

MAXSIZE = 1_000
TRIPS = 5_000


def numbers() -> list[int]:
    return list(range(1_000))


SINGLES = Load(300_000, numbers)
LISTS = Load(3_000_000, numbers, together=100)


class Ours:
    """One end of a `LocalQueue`."""

    def __init__(self, channel: LocalQueue[Any]) -> None:
        self.put, self.get, self.put_list = channel.put, channel.get, channel.put_batch
        self.get_list = partial(channel.get_batch, LISTS.together)
        self.end = lambda: None


def ours(maxsize: int) -> Ends:
    end = partial(Ours, LocalQueue(maxsize))
    return Ends(end, end)


def theirs(maxsize: int) -> Ends:
    return plain(queue.Queue(maxsize))


def rows(rounds: int) -> Iterator[Row]:
    peer = "queue.Queue"
    yield from compare(
        f"one by one, both bounded at {MAXSIZE:,}",
        RATE,
        {
            "SAGE": lambda: flow(ours(MAXSIZE), SINGLES, in_threads),
            peer: lambda: flow(theirs(MAXSIZE), SINGLES, in_threads),
        },
        [Times(5, peer)],
        rounds,
    )
    yield from compare(
        "lists of 100, as many items fit in both",
        RATE,
        {
            "SAGE": lambda: flow(ours(MAXSIZE * LISTS.together), LISTS, in_threads),
            peer: lambda: flow(theirs(MAXSIZE), LISTS, in_threads),
        },
        [Times(1, peer), AtLeast(20_000_000)],
        rounds,
    )
    yield from compare(
        "round trip",
        MICROSECONDS,
        {
            "SAGE": lambda: round_trip_us(ours(1), ours(1), TRIPS, in_threads),
            peer: lambda: round_trip_us(theirs(1), theirs(1), TRIPS, in_threads),
        },
        [Times(1, peer)],
        rounds,
    )
