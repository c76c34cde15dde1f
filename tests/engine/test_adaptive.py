"""``concurrency="adaptive"`` without endpoints: the calls themselves are the signal."""

import asyncio
from typing import Any

import pytest

import sage
from engines import Engine
from live import Gate, Tally
from patience import DEADLINE_S
from sage import Operator, Status
from sage.connectors import Items
from sage.errors import EndpointBusy


class Crowd(Operator):
    """Takes a moment for each record, and turns away those that come while `room` others are inside."""

    def __init__(self, tally: Tally, room: int = 1_000_000) -> None:
        self.tally = tally
        self.room = room

    async def __call__(self, record: int) -> int:
        if self.tally.now >= self.room:
            raise EndpointBusy("E720", "too many", retry_after_s=0.0)
        self.tally.enter()
        try:
            await asyncio.sleep(0.001)
        finally:
            self.tally.leave()
        return record


class Held(Operator):
    """Waits at a gate that the test opens."""

    def __init__(self, gate: Gate, tally: Tally) -> None:
        self.gate = gate
        self.tally = tally

    async def __call__(self, record: int) -> int:
        self.tally.enter()
        await asyncio.to_thread(self.gate.wait)
        return record


def adaptive(engine: Engine, operator: Any, count: int = 400, **options: Any) -> sage.RunResult:
    return engine.over(range(count), lambda s: s.map(operator, name="it", concurrency="adaptive", **options))


def test_where_calls_do_not_disturb_one_another_there_come_to_be_more(engine: Engine) -> None:
    tally = Tally()
    assert sorted(adaptive(engine, Crowd(tally), 3000).collected()) == list(range(3000))
    assert tally.most > 16


def test_being_turned_away_burns_no_retry_and_loses_nothing(engine: Engine) -> None:
    tally = Tally()
    result = adaptive(engine, Crowd(tally, room=3), 200, retries=0)
    assert sorted(result.collected()) == list(range(200))
    assert (result.status, result.steps[1].retries, tally.most) == (Status.SUCCEEDED, 0, 3)


def test_order_is_kept(engine: Engine) -> None:
    result = engine.over(
        range(300),
        lambda s: s.order_by(lambda n: n % 3).map(Crowd(Tally()), name="it", concurrency="adaptive"),
    )
    collected = result.collected()
    for key in range(3):
        assert [n for n in collected if n % 3 == key] == list(range(key, 300, 3))


@pytest.mark.parametrize("kind", ["filter", "flat_map"])
def test_filters_and_flat_maps(engine: Engine, kind: str) -> None:
    async def of(n: int) -> Any:
        return n % 2 if kind == "filter" else [n] * (n % 2)

    result = engine.over(range(100), lambda s: getattr(s, kind)(of, name="it", concurrency="adaptive"))
    assert sorted(result.collected()) == list(range(1, 100, 2))


def test_lists_of_records(engine: Engine) -> None:
    async def doubled(numbers: list[int]) -> list[int]:
        return [2 * n for n in numbers]

    assert sorted(adaptive(engine, doubled, 100, batch_size=7).collected()) == list(range(0, 200, 2))


def test_a_call_takes_too_long(engine: Engine, letters: Any) -> None:
    async def endless(n: int) -> int:
        await asyncio.sleep(0 if n else 3600)
        return n

    result = adaptive(engine, endless, 10, timeout_s=0.2, retries=2)
    assert [letter["code"] for letter in letters(result)] == ["E410"]
    assert sorted(result.collected()) == list(range(1, 10))


def test_a_stop_finishes_what_is_in_flight(engine: Engine, wait_until: Any) -> None:
    gate, tally = Gate(), Tally()
    pipeline = sage.Pipeline("held")
    pipeline.read(Items(range(100_000))).map(Held(gate, tally), name="it", concurrency="adaptive").collect()
    job = engine.start(pipeline)
    wait_until(lambda: tally.total)
    job.stop()
    gate.open()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.missing) == (Status.CANCELLED, 0)
    assert result.account.written + result.account.unfinished == result.account.read < 100_000


def test_an_abort_does_not_wait(engine: Engine, wait_until: Any) -> None:
    gate, tally = Gate(), Tally()
    pipeline = sage.Pipeline("held")
    pipeline.read(Items(range(1000))).map(Held(gate, tally), name="it", concurrency="adaptive").collect()
    job = engine.start(pipeline)
    wait_until(lambda: tally.total)
    job.abort()
    assert job.wait(DEADLINE_S).status is Status.CANCELLED
    gate.open()


def test_the_figures_say_how_many(engine: Engine, wait_until: Any) -> None:
    gate, tally = Gate(), Tally()
    pipeline = sage.Pipeline("held")
    pipeline.read(Items(range(100))).map(Held(gate, tally), name="it", concurrency="adaptive").collect()
    job = engine.start(pipeline)
    wait_until(lambda: tally.total >= 4)
    step = job.snapshot().steps[1]
    assert 1 <= step.slots <= 16
    gate.open()
    assert job.wait(DEADLINE_S).status is Status.SUCCEEDED
