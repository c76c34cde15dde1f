"""Operators with a life: copied, opened once, called, closed once."""

import asyncio
import threading
from typing import Any, ClassVar

import pytest

from engines import Engine
from live import Live
from sage import Operator, OperatorContext, Status


class Diary(Live):
    """What happened to operators, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def __call__(self, *line: Any) -> None:
        self.lines.append(line)

    def told(self, what: str) -> list[tuple[Any, ...]]:
        return [line for line in self.lines if line[0] == what]


class Plain(Operator):
    def __init__(self, diary: Diary) -> None:
        self.diary = diary
        self.seen = 0

    def open(self, context: OperatorContext) -> None:
        self.diary("open", context, threading.current_thread().name)
        self.me = id(self)

    def __call__(self, record: Any) -> Any:
        self.seen += 1
        self.diary("call", self.me, threading.current_thread().name)
        if record == "poison":
            raise ValueError("poison")
        return record

    def close(self) -> None:
        self.diary("close", self.me, threading.current_thread().name)


class Async(Operator):
    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    async def open(self, context: OperatorContext) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.me = id(self)
        self.diary("open", context, threading.current_thread().name)

    async def __call__(self, record: Any) -> Any:
        self.diary("call", self.me, threading.current_thread().name)
        if record == "poison":
            raise ValueError("poison")
        return record

    async def close(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.diary("close", self.me, threading.current_thread().name)


kinds = pytest.mark.parametrize("kind", [Plain, Async])


@kinds
@pytest.mark.parametrize("step", ["map", "filter", "flat_map"])
def test_an_operator_is_copied_opened_once_and_closed_once(engine: Engine, kind: Any, step: str) -> None:
    diary = Diary()
    operator = kind(diary)
    records = [["a"], ["b"], ["c"]]
    result = engine.over(records, lambda s: getattr(s, step)(operator, name="it", parallelism=1))
    assert len(result.collected()) == 3
    assert [line[0] for line in diary.lines] == ["open", *["call"] * 3, "close"]
    assert diary.lines[0][1] == OperatorContext("test", "it", 0, 1)
    assert id(operator) not in {line[1] for line in diary.told("call")}
    assert len({line[2] for line in diary.lines}) == 1  # all on the thread that runs the calls


@kinds
def test_one_copy_for_each_instance(engine: Engine, kind: Any) -> None:
    diary = Diary()
    result = engine.over(range(5000), lambda s: s.map(kind(diary), parallelism=3))
    assert sorted(result.collected()) == list(range(5000))
    assert sorted((line[1].instance, line[1].parallelism) for line in diary.told("open")) == [(0, 3), (1, 3), (2, 3)]
    assert len({line[1] for line in diary.told("close")}) == len(diary.told("close")) == 3
    assert {line[1] for line in diary.told("call")} <= {line[1] for line in diary.told("close")}


def test_threads_of_an_instance_share_its_copy(engine: Engine) -> None:
    diary = Diary()
    engine.over(range(500), lambda s: s.map(Plain(diary), concurrency=4))
    assert len(diary.told("open")) == len(diary.told("close")) == 1
    assert len({line[1] for line in diary.told("call")}) == 1


@kinds
@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_closed_also_after_a_failure(engine: Engine, kind: Any, on_error: Any) -> None:
    diary = Diary()
    result = engine.over(["poison"], lambda s: s.map(kind(diary), on_error=on_error, parallelism=1))
    assert (result.status is Status.FAILED) == (on_error == "fail")
    assert len(diary.told("close")) == 1


@kinds
def test_closed_when_another_step_ends_the_run(engine: Engine, kind: Any) -> None:
    diary = Diary()
    engine.over(
        range(100), lambda s: s.map(kind(diary), parallelism=1).map(lambda x: 1 // 0, parallelism=2, on_error="fail")
    )
    assert len(diary.told("close")) == 1


@kinds
@pytest.mark.parametrize("place", ["open", "close"])
def test_open_or_close_that_raises_ends_the_run(engine: Engine, kind: Any, place: str) -> None:
    diary = Diary()
    if kind is Plain:

        class Broken(Plain):
            pass

        def fail(self: Any, *context: Any) -> None:
            raise ValueError(f"cannot {place}")

        setattr(Broken, place, fail)
    else:

        class Broken(Async):  # type: ignore[no-redef]
            pass

        async def fail_async(self: Any, *context: Any) -> None:
            raise ValueError(f"cannot {place}")

        setattr(Broken, place, fail_async)
    result = engine.over([1, 2], lambda s: s.map(Broken(diary)))
    assert result.status is Status.FAILED
    assert f"ValueError: cannot {place}" in str(result.error)
    assert result.account.read == (0 if place == "open" else 2)


@kinds
def test_nothing_is_read_before_everything_is_open(engine: Engine, kind: Any) -> None:
    diary = Diary()

    def items() -> Any:
        diary("read")
        return iter([1])

    engine.over(items, lambda s: s.map(kind(diary), parallelism=2).map(kind(diary), parallelism=1))
    assert [line[0] for line in diary.lines][:4] == ["open", "open", "open", "read"]


class WithoutArguments:
    def __call__(self, x: int) -> int:
        return -x


def test_a_class_stands_for_an_instance_of_it(engine: Engine) -> None:
    assert sorted(engine.over([1, 2], lambda s: s.map(WithoutArguments)).collected()) == [-2, -1]
    assert sorted(engine.over(["1", "2"], lambda s: s.map(int)).collected()) == [1, 2]


class Four(Operator):
    step_options: ClassVar[dict[str, Any]] = {"concurrency": 4}

    async def __call__(self, x: int) -> int:
        return x


def test_options_that_a_class_brings_along(engine: Engine) -> None:
    result = engine.over([1], lambda s: s.map(Four()).map(Four(), concurrency=2))
    assert [step.slots for step in result.steps if step.kind == "map"] == [4, 2]


class Counting:
    """State of its own: every run starts with a fresh copy."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: int) -> int:
        self.count += 1
        return self.count


def test_every_run_has_copies_of_its_own(engine: Engine) -> None:
    operator = Counting()
    for _ in range(2):
        assert engine.over([0, 0, 0], lambda s: s.map(operator, parallelism=1)).collected() == [1, 2, 3]
    assert operator.count == 0
    instances = engine.over([0] * 3000, lambda s: s.map(operator, parallelism=3)).collected()
    assert len(instances) == 3000
    assert max(instances) <= 3000
