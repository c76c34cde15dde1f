"""Where the time of a record went: when each step began with it, and how long it waited in the step."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sage
from sage.connectors import Items
from sage.runtime.stats import StepSnapshot

COUNT = 40


async def _awaited(number: int) -> int:
    await asyncio.sleep(0.002)
    return number


def _steps(result: Any) -> dict[str, StepSnapshot]:
    return {step.name: step for step in result.steps}


def _each_s(step: StepSnapshot) -> float:
    return step.busy_s / step.received


@pytest.mark.once
def test_a_step_begins_after_the_one_before_it_has_ended() -> None:
    pipeline = sage.Pipeline("times")
    stream = pipeline.read(Items(range(COUNT))).map(_awaited, concurrency=2, name="first")
    stream.map(_awaited, concurrency=4, name="second").collect()
    found = _steps(sage.run(pipeline))
    begins = {name: step.begins_s for name, step in found.items()}
    assert begins["read-Items"] is None
    assert None not in (begins["first"], begins["second"], begins["collect"])
    assert begins["second"] >= begins["first"] + _each_s(found["first"])  # type: ignore[operator]
    assert begins["collect"] >= begins["second"] + _each_s(found["second"])  # type: ignore[operator]
    assert found["first"].waits_s == 0


class _FailsOnce:
    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __call__(self, number: int) -> int:
        if number not in self._seen:
            self._seen.add(number)
            raise ValueError("not yet")
        return number


@pytest.mark.once
def test_the_time_between_two_attempts_counts_as_waiting() -> None:
    pipeline = sage.Pipeline("times")
    pipeline.read(Items(range(3))).map(_FailsOnce(), retries=1, name="fails").collect()
    step = _steps(sage.run(pipeline))["fails"]
    assert step.retries == 3
    assert 0 < step.waits_s <= step.busy_s


@pytest.mark.once
def test_a_step_behind_another_in_one_task_begins_with_it() -> None:
    pipeline = sage.Pipeline("times")
    pipeline.read(Items(range(3))).map(str, name="a").map(str, name="b").collect()
    assert {step.begins_s for step in sage.run(pipeline).steps} == {None}
