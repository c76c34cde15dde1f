"""map, filter and flat_map: what goes in, what comes out, and what becomes of a record that fails."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from engines import Engine, once
from live import Notes
from sage import Status
from sage.connectors import Items
from sage.errors import RecordError

(ASYNC, OVERLAPPING) = once(True, {"concurrency": 3})
"""Calls that overlap stay in the user's process on every engine."""


def double(x: int) -> int:
    return 2 * x


async def double_async(x: int) -> int:
    return 2 * x


def odd(x: int) -> bool:
    return x % 2 == 1


async def odd_async(x: int) -> bool:
    return x % 2 == 1


def fail_on_3(x: Any) -> Any:
    if x == 3:
        raise ValueError("three")
    return x


@pytest.mark.parametrize("count", [0, *once(1, 2), 17, 5000])
@pytest.mark.parametrize("operator", [double, *once(double_async)])
@pytest.mark.parametrize("options", [{}, {"parallelism": 3}, OVERLAPPING])
def test_map(engine: Engine, count: int, operator: Any, options: dict[str, int]) -> None:
    result = engine.over(range(count), lambda s: s.map(operator, **options))
    assert sorted(result.collected()) == [2 * x for x in range(count)]
    assert result.status is Status.SUCCEEDED
    assert result.account.read == result.account.written == count
    assert result.dead_letters is None


@pytest.mark.parametrize("predicate", [odd, *once(odd_async)])
@pytest.mark.parametrize("options", [{}, {"parallelism": 3}, OVERLAPPING])
def test_filter(engine: Engine, predicate: Any, options: dict[str, int]) -> None:
    result = engine.over(range(1001), lambda s: s.filter(predicate, **options))
    assert sorted(result.collected()) == list(range(1, 1001, 2))
    assert result.account.filtered == 501


def test_without_concurrency_the_order_of_the_source_is_kept(engine: Engine) -> None:
    result = engine.over(range(3000), lambda s: s.map(double).filter(odd_or_large).flat_map(twice))
    expected = [x for y in range(3000) if 2 * y > 100 for x in (2 * y, 2 * y)]
    assert (result.collected() if engine.processes == 1 else sorted(result.collected())) == expected


def odd_or_large(x: int) -> bool:
    return x > 100


def twice(x: Any) -> list[Any]:
    return [x, x]


def test_two_hundred_thousand_records(engine: Engine) -> None:
    result = engine.over(range(200_000), lambda s: s.map(double).filter(lambda x: x % 3 == 0))
    assert sum(result.collected()) == sum(2 * x for x in range(200_000) if 2 * x % 3 == 0)
    assert str(result.account) == "read 200,000 = written 66,667 + dead-lettered 0 + filtered 133,333"


@pytest.mark.parametrize("steps", [*once(1, 63, 64), 65, 600])
@pytest.mark.parametrize("kind", ["map", "filter", "flat_map"])
def test_as_many_steps_as_one_likes(engine: Engine, steps: int, kind: str) -> None:
    def build(stream: Any) -> Any:
        for _ in range(steps):
            if kind == "map":
                stream = stream.map(lambda x: x + 1)
            elif kind == "filter":
                stream = stream.filter(lambda x: True)
            else:
                stream = stream.flat_map(lambda x: [x])
        return stream.map(fail_on_3)  # a rid is asked for, too

    added = steps if kind == "map" else 0
    result = engine.over([0, 3 - added, 5], build)
    assert sorted(result.collected()) == [added, 5 + added]
    assert result.account.dead_lettered == 1


@pytest.mark.parametrize("kind", [list, tuple, set, iter, range, lambda numbers: dict.fromkeys(numbers).keys()])
def test_flat_map_takes_iterables(engine: Engine, kind: Any) -> None:
    def children(n: int) -> Any:
        return kind(n) if kind is range else kind(range(n))

    result = engine.over([0, 1, 4], lambda s: s.flat_map(children))
    assert sorted(result.collected()) == [0, 0, 1, 2, 3]
    assert (result.account.created, result.account.filtered) == (3, 1)


@pytest.mark.parametrize("count", [0, *once(1, 1023, 1024, 1025, 2047, 2048), 2049, 5000])
@pytest.mark.parametrize("is_async", [False, ASYNC])
def test_flat_map_of_generators(engine: Engine, count: int, is_async: bool) -> None:
    def children(x: int) -> Iterator[tuple[int, int]]:
        for n in range(count):
            yield x, n

    async def children_async(x: int) -> AsyncIterator[tuple[int, int]]:
        for n in range(count):
            yield x, n

    result = engine.over([1, 2], lambda s: s.flat_map(children_async if is_async else children))
    assert sorted(result.collected()) == [(x, n) for x in (1, 2) for n in range(count)]
    assert result.account.filtered == (0 if count else 2)
    assert result.account.created == (2 * count - 2 if count else 0)


@pytest.mark.parametrize("count", [0, *once(1, 1000, 1024, 2048), 3000])
def test_a_generator_that_raises_in_the_middle(engine: Engine, letters: Any, count: int) -> None:
    def children(x: int) -> Iterator[int]:
        yield from range(count)
        if x == 2:
            raise ValueError("in the middle")

    result = engine.over([1, 2, 3], lambda s: s.flat_map(children))
    assert sorted(result.collected()) == sorted(3 * list(range(count)))  # what came before the error goes on
    assert [letter["input"] for letter in letters(result)] == [2]


def test_an_async_generator_that_raises_in_the_middle(engine: Engine, letters: Any) -> None:
    async def children(x: int) -> AsyncIterator[int]:
        yield x
        if x == 2:
            raise ValueError("in the middle")

    result = engine.over([1, 2, 3], lambda s: s.flat_map(children))
    assert sorted(result.collected()) == [1, 3]
    assert [letter["input"] for letter in letters(result)] == [2]


class BrokenIterable:
    def __iter__(self) -> Iterator[int]:
        raise ValueError("cannot be iterated")


@pytest.mark.parametrize("is_async", [False, ASYNC])
@pytest.mark.parametrize("result_of_2", ["text", b"bytes", {"a": 1}, 7, None, BrokenIterable()])
def test_what_flat_map_cannot_take_apart_is_one_records_fault(
    engine: Engine, letters: Any, result_of_2: Any, is_async: bool
) -> None:
    def children(x: int) -> Any:
        return result_of_2 if x == 2 else [x]

    async def children_async(x: int) -> Any:
        return children(x)

    result = engine.over([1, 2, 3], lambda s: s.flat_map(children_async if is_async else children))
    assert sorted(result.collected()) == [1, 3]
    (letter,) = letters(result)
    assert letter["input"] == 2
    assert letter["code"] == ("E411" if isinstance(result_of_2, BrokenIterable) else "E413")


def test_an_async_flat_map_may_return_a_generator_that_raises(engine: Engine, letters: Any) -> None:
    async def children(x: int) -> Any:
        return (1 // (x - 2) for _ in range(1))

    result = engine.over([1, 2, 3], lambda s: s.flat_map(children))
    assert sorted(result.collected()) == [-1, 1]
    assert [letter["input"] for letter in letters(result)] == [2]


class NoTruth:
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


@pytest.mark.parametrize("is_async", [False, ASYNC])
def test_a_verdict_that_is_neither_true_nor_false(engine: Engine, letters: Any, is_async: bool) -> None:
    def verdict(x: int) -> Any:
        return NoTruth() if x == 2 else True

    async def verdict_async(x: int) -> Any:
        return verdict(x)

    result = engine.over([1, 2, 3], lambda s: s.filter(verdict_async if is_async else verdict))
    assert sorted(result.collected()) == [1, 3]
    assert [letter["input"] for letter in letters(result)] == [2]


@pytest.mark.parametrize("is_async", [False, ASYNC])
@pytest.mark.parametrize("options", [{}, {"parallelism": 2}, OVERLAPPING])
def test_batches(engine: Engine, is_async: bool, options: dict[str, int]) -> None:
    sizes = Notes()

    def double_all(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        return [2 * x for x in batch]

    async def double_all_async(batch: list[int]) -> list[int]:
        return double_all(batch)

    operator = double_all_async if is_async else double_all
    result = engine.over(range(1000), lambda s: s.map(operator, batch_size=32, **options))
    assert sorted(result.collected()) == [2 * x for x in range(1000)]
    assert max(sizes) <= 32
    assert sum(sizes) == 1000
    assert len(sizes) < 100


def test_batches_from_a_source_that_brings_one_record_at_a_time(engine: Engine) -> None:
    """Several threads wait for a full batch in one inbox; some of them find that another took it."""

    def trickle() -> Iterator[int]:
        yield from range(3000)

    result = engine.over(
        trickle, lambda s: s.map(double, concurrency=4).map(list, batch_size=3, concurrency=8).map(double)
    )
    assert sorted(result.collected()) == [4 * x for x in range(3000)]


@pytest.mark.parametrize("is_async", [False, ASYNC])
@pytest.mark.parametrize("wrong", [[], [1, 2, 3], "ab", {"a": 1, "b": 2}, None, 7])
def test_a_batch_operator_that_does_not_return_one_result_each(
    engine: Engine, letters: Any, is_async: bool, wrong: Any
) -> None:
    def operator(batch: list[int]) -> Any:
        return wrong

    async def operator_async(batch: list[int]) -> Any:
        return wrong

    result = engine.over([1, 2], lambda s: s.map(operator_async if is_async else operator, batch_size=2))
    assert result.collected() == []
    assert {letter["code"] for letter in letters(result)} == {"E416"}
    assert result.account.dead_lettered == 2


@pytest.mark.parametrize("is_async", [False, ASYNC])
@pytest.mark.parametrize("poison", [{0}, {31}, {5, 6, 20}, set(range(32))])
def test_the_poison_in_a_batch_is_isolated(engine: Engine, letters: Any, is_async: bool, poison: set[int]) -> None:
    def operator(batch: list[int]) -> list[int]:
        if poison & set(batch):
            raise ValueError(f"poison in {batch}")
        return batch

    async def operator_async(batch: list[int]) -> list[int]:
        return operator(batch)

    result = engine.over(range(100), lambda s: s.map(operator_async if is_async else operator, batch_size=32))
    assert sorted(result.collected()) == sorted(set(range(100)) - poison)
    assert {letter["input"] for letter in letters(result)} == poison
    assert result.account.dead_lettered == len(poison)


@pytest.mark.parametrize("is_async", [False, ASYNC])
def test_none_in_a_batch_of_results(engine: Engine, letters: Any, is_async: bool) -> None:
    def operator(batch: list[int]) -> list[Any]:
        return [None if x % 10 == 3 else x for x in batch]

    async def operator_async(batch: list[int]) -> list[Any]:
        return operator(batch)

    result = engine.over(range(40), lambda s: s.map(operator_async if is_async else operator, batch_size=16))
    assert sorted(result.collected()) == [x for x in range(40) if x % 10 != 3]
    assert [(letter["input"], letter["code"]) for letter in sorted(letters(result), key=lambda it: it["input"])] == [
        (x, "E412") for x in (3, 13, 23, 33)
    ]


def test_a_source_may_not_bring_none(engine: Engine, letters: Any) -> None:
    result = engine.over([1, None, 3], lambda s: s.map(double))
    assert sorted(result.collected()) == [2, 6]
    (letter,) = letters(result)
    assert (letter["code"], letter["rid"], letter["input"]) == ("E402", "items/1", None)


def test_a_run_of_steps_fails_in_the_middle(engine: Engine, letters: Any) -> None:
    """Each failure is told with the step at which it happened, and what this step was given."""

    def at(bad: int) -> Any:
        def operator(x: int) -> int:
            if x % 10 == bad:
                raise RecordError("E499", f"bad {bad}")
            return x + 10

        return operator

    def build(stream: Any) -> Any:
        return stream.map(at(1), name="a").filter(lambda x: x % 10 != 7).map(at(2), name="b").map(at(3), name="c")

    result = engine.over(range(1000), build)
    assert sorted(result.collected()) == [x + 30 for x in range(1000) if x % 10 not in (1, 2, 3, 7)]
    found = {
        (letter["step"], letter["reason"][-5:], letter["input"] - int(letter["rid"][6:])) for letter in letters(result)
    }
    assert found == {("a", "bad 1", 0), ("b", "bad 2", 10), ("c", "bad 3", 20)}
    assert result.account.filtered == 100
    steps = {step.name: step for step in result.steps}
    assert [(steps[name].received, steps[name].emitted, steps[name].in_flight) for name in "abc"] == [
        (1000, 900, 0), (800, 700, 0), (700, 600, 0),
    ]  # fmt: skip


def test_one_exception_object_raised_again_and_again(engine: Engine, letters: Any) -> None:
    error = ValueError("always the same object")

    def operator(x: int) -> int:
        if x % 2:
            raise error
        return x

    result = engine.over(range(200), lambda s: s.map(double).map(lambda x: x // 2).map(operator).filter(lambda x: True))
    assert sorted(result.collected()) == list(range(0, 200, 2))
    assert sorted(letter["input"] for letter in letters(result)) == list(range(1, 200, 2))


@pytest.mark.one_process("between processes records are copied")
def test_records_are_handed_on_as_they_are(engine: Engine) -> None:
    record = object()
    assert engine.over([record], lambda s: s.map(lambda x: x)).collected() == [record]


def test_the_same_pipeline_runs_again(engine: Engine) -> None:
    import sage

    pipeline = sage.Pipeline("again")
    pipeline.read(Items([1, 2, 3])).map(double).key_by(str).count().collect()
    first, second = engine.run(pipeline), engine.run(pipeline)
    assert sorted(first.collected()) == sorted(second.collected()) == [("2", 1), ("4", 1), ("6", 1)]
    assert first.account == second.account
    assert first.run_id != second.run_id
