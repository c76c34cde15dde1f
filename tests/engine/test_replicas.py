"""``parallelism="adaptive"``: the replicas of a step that blocks."""

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import ClassVar

import pytest

import sage
from clocks import HandClock
from engines import LocalEngine
from sage import Operator, PipelineError, Status
from sage.connectors import Items
from sage.runtime.control import Control
from sage.runtime.replicas import Replicas

MOST = 64
ENGINE = LocalEngine()


def replicas_after(records: int, call_s: Callable[[int], float]) -> tuple[float, list[int]]:
    """When so many `records` are done in virtual time, and how many were at work at the end of each; `call_s` says how
    long a call takes beside so many others."""
    watch, numbers = HandClock(), count()
    replicas = Replicas(MOST, Control(), watch)
    running: list[tuple[float, int, object]] = []
    at_work = []
    left = records
    while left or running:
        while left and len(running) < replicas.limit:
            left -= 1
            flight = replicas.begin()
            heapq.heappush(running, (watch.now_s + call_s(len(running) + 1), next(numbers), flight))
        watch.now_s, _, flight = heapq.heappop(running)
        at_work.append(len(running) + 1)
        replicas.end(flight, 1, 0.0)  # type: ignore[arg-type]
    return watch.now_s, at_work


def test_what_waits_gets_as_many_as_there_may_be() -> None:
    took_s, at_work = replicas_after(20_000, lambda beside: 0.02)
    assert max(at_work) > 0.9 * MOST
    assert took_s < 20_000 * 0.02 / MOST * 1.1


def test_what_computes_gets_hardly_more_than_one() -> None:
    """Python computes on one thread at a time."""
    took_s, at_work = replicas_after(2_000, lambda beside: 0.001 * beside)
    assert at_work[-100] <= 3
    assert took_s < 2_000 * 0.001 * 1.05


class Copy(Operator):
    """Each replica has its own; none is used by two threads."""

    opened: ClassVar[list[int]] = []
    closed: ClassVar[list[int]] = []

    def open(self, context: object = None) -> None:
        self.threads: set[int] = set()
        Copy.opened.append(id(self))

    def __call__(self, record: int) -> int:
        self.threads.add(threading.get_ident())
        assert len(self.threads) == 1
        time.sleep(0.001)
        return record

    def close(self) -> None:
        Copy.closed.append(id(self))


def test_each_replica_has_a_copy_of_its_own_and_closes_it() -> None:
    Copy.opened, Copy.closed = [], []
    result = ENGINE.over(range(600), lambda s: s.map(Copy(), name="it", parallelism="adaptive"))
    assert sorted(result.collected()) == list(range(600))
    assert len(set(Copy.opened)) == len(Copy.opened) > 1
    assert sorted(Copy.opened) == sorted(Copy.closed)
    (step,) = [step for step in result.steps if step.name == "it"]
    assert 1 <= step.slots <= MOST


def test_an_order_is_kept() -> None:
    def turn(n: int) -> int:
        time.sleep(0.002 if n % 7 == 0 else 0)
        return n

    result = ENGINE.over(range(200), lambda s: s.order_by(lambda n: 0).map(turn, parallelism="adaptive"))
    assert result.collected() == list(range(200))


def test_several_steps_and_few_records_in_flight() -> None:
    """Every step keeps a replica, so nobody waits for a thread that another step has."""

    def both(stream: sage.Stream) -> sage.Stream:
        return stream.map(abs, name="a", parallelism="adaptive").map(abs, name="b", parallelism="adaptive")

    result = ENGINE.over(range(300), both, max_in_flight=2)
    assert sorted(result.collected()) == list(range(300))


class LateOpening(Operator):
    """Only the first copy can be opened."""

    first = True

    def open(self, context: object = None) -> None:
        if not LateOpening.first:
            raise OSError("no second one")
        LateOpening.first = False

    def __call__(self, record: int) -> int:
        time.sleep(0.001)
        return record


def test_a_replica_that_cannot_be_opened_ends_the_run_with_its_reason() -> None:
    LateOpening.first = True
    result = ENGINE.over(range(10_000), lambda s: s.map(LateOpening(), parallelism="adaptive"))
    assert result.status is Status.FAILED
    assert "no second one" in str(result.error)


async def asks(n: int) -> int:
    return n


@pytest.mark.parametrize(
    "build",
    [
        lambda s: s.map(asks, parallelism="adaptive"),
        lambda s: s.map(abs, parallelism="adaptive", concurrency=4),
        lambda s: s.map(abs, parallelism="adaptiv"),
    ],
)
def test_where_it_cannot_be(build: Callable[[sage.Stream], sage.Stream]) -> None:
    pipeline = sage.Pipeline("test")
    build(pipeline.read(Items([1]))).collect()
    with pytest.raises(PipelineError, match="E216"):
        sage.run(pipeline)
