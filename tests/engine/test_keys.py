"""Keys: reductions, and keeping the order of equal keys."""

import asyncio
import random
from collections import Counter
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import pytest

from engines import Engine
from live import Gate, Notes
from sage import Status

WORDS = random.Random(7).choices("abcdefghij", k=5000)

parallelisms = pytest.mark.parametrize("parallelism", [1, 4])


@parallelisms
def test_count(engine: Engine, parallelism: int) -> None:
    result = engine.over(WORDS, lambda s: s.key_by(lambda w: w).count(parallelism=parallelism))
    assert dict(result.collected()) == Counter(WORDS)
    assert len(result.collected()) == 10
    account = result.account
    assert (account.read, account.merged, account.created, account.written) == (5000, 5000, 10, 10)


@parallelisms
def test_reduce_begins_with_the_first_record(engine: Engine, parallelism: int) -> None:
    pairs = [{"key": w, "n": n} for n, w in enumerate(WORDS)]

    def larger(one: Any, other: Any) -> Any:
        return max(one, other, key=lambda pair: pair["n"])

    result = engine.over(pairs, lambda s: s.key_by("key").reduce(larger, parallelism=parallelism))
    assert dict(result.collected()) == {pair["key"]: pair for pair in pairs}


@parallelisms
def test_aggregate_begins_with_the_initial_value(engine: Engine, parallelism: int) -> None:
    def add(numbers: list[int], n: int) -> list[int]:
        numbers.append(n)
        return numbers

    result = engine.over(range(1000), lambda s: s.key_by(lambda n: n % 7).aggregate(list, add, parallelism=parallelism))
    assert {key: sorted(numbers) for key, numbers in result.collected()} == {
        rest: list(range(rest, 1000, 7)) for rest in range(7)
    }


@parallelisms
def test_a_reduction_of_nothing(engine: Engine, parallelism: int) -> None:
    assert engine.over([], lambda s: s.key_by(str).count(parallelism=parallelism)).collected() == []


@parallelisms
@pytest.mark.parametrize("kind", ["count", "reduce", "aggregate"])
def test_keys_that_cannot_be_keys(engine: Engine, letters: Any, parallelism: int, kind: str) -> None:
    def build(stream: Any) -> Any:
        keyed = stream.key_by(lambda x: x)
        if kind == "count":
            return keyed.count(parallelism=parallelism)
        if kind == "reduce":
            return keyed.reduce(lambda a, b: a, parallelism=parallelism)
        return keyed.aggregate(int, lambda a, b: a + 1, parallelism=parallelism)

    result = engine.over(["a", ["list"], {"a": 1}, ("a", ["in a tuple"]), "a"], build)
    assert [key for key, _ in result.collected()] == ["a"]
    assert [letter["code"] for letter in letters(result)] == ["E414"] * 3
    assert result.account.merged == 2


def test_a_field_that_is_missing(engine: Engine, letters: Any) -> None:
    result = engine.over([{"k": 1}, {}, 7, {"k": 2}], lambda s: s.key_by("k").count())
    assert sorted(result.collected()) == [(1, 1), (2, 1)]
    assert sorted(letter["reason"].split(":")[0] for letter in letters(result)) == ["KeyError", "TypeError"]


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Plain(Enum):
    A = 1


@parallelisms
def test_keys_are_equal_where_python_says_so(engine: Engine, parallelism: int) -> None:
    keys = [
        1, 1.0, True, Decimal(1), Fraction(1), complex(1), Number.ONE, 0, False, -0.0, 0.5, Fraction(1, 2),
        Decimal("0.5"),
        "red", Colour.RED, b"red", (1, "a"), (1.0, "a"), (True, Colour.RED), (1, "red"), frozenset({1, "x"}),
        frozenset({"x", 1.0}), None, Plain.A, float("inf"), Decimal("inf"), 10**5000, 2**70, float(2**70),
    ]  # fmt: skip
    result = engine.over([(key,) for key in keys], lambda s: s.key_by(lambda r: r[0]).count(parallelism=parallelism))
    assert result.status is Status.SUCCEEDED, result.error
    assert dict(result.collected()) == Counter(keys)
    assert len(result.collected()) == len(Counter(keys))


@parallelisms
def test_a_function_that_fails_while_reducing(engine: Engine, letters: Any, parallelism: int) -> None:
    def add(total: int, n: int) -> int:
        if n % 10 == 3:
            raise ValueError("three")
        return total + n

    result = engine.over(range(100), lambda s: s.key_by(lambda n: n % 2).aggregate(int, add, parallelism=parallelism))
    odd = sum(n for n in range(1, 100, 2) if n % 10 != 3)
    assert dict(result.collected()) == {0: sum(range(0, 100, 2)), 1: odd}
    assert sorted(letter["input"] for letter in letters(result)) == list(range(3, 100, 10))


def test_reductions_one_behind_the_other(engine: Engine) -> None:
    result = engine.over(WORDS, lambda s: s.key_by(str).count().key_by(lambda pair: pair[1] % 2).count())
    assert sum(count for _, count in result.collected()) == 10


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("mode", ["async", "threads", "parallel", "async parallel"])
def test_order_by(engine: Engine, mode: str, is_batch: bool) -> None:
    """Equal keys leave in the order of the source, whatever runs at once and however long it takes."""
    records = [(n % 5, n) for n in range(400)]
    pauses = random.Random(3)

    def one(record: Any) -> Any:
        if pauses.random() < 0.1:
            Gate().opened_soon()
        return record

    async def one_async(record: Any) -> Any:
        for _ in range(pauses.randrange(5)):
            await asyncio.sleep(0)
        return record

    def batch(batch: list[Any]) -> list[Any]:
        return [one(record) for record in batch]

    async def batch_async(batch: list[Any]) -> list[Any]:
        return [await one_async(record) for record in batch]

    operator: Any = {
        (True, False): one_async, (True, True): batch_async, (False, False): one, (False, True): batch,
    }["async" in mode, is_batch]  # fmt: skip
    options: dict[str, Any] = {"batch_size": 4} if is_batch else {}
    options |= {"parallelism": 3} if "parallel" in mode else {}
    options |= {"concurrency": 4} if mode != "parallel" else {}

    def build(stream: Any) -> Any:
        return stream.order_by(lambda r: r[0]).map(operator, **options).filter(lambda r: r[1] % 7 != 0).map(tuple)

    found = engine.over(records, build).collected()
    assert len(found) == sum(n % 7 != 0 for n in range(400))
    for key in range(5):
        numbers = [n for k, n in found if k == key]
        assert numbers == sorted(numbers)


def test_order_by_lets_other_keys_pass(engine: Engine) -> None:
    """The first record of key 0 waits until a record of key 1 that was read later has gone through."""
    gate = Gate()
    passed = Notes()

    def operator(record: int) -> int:
        if record == 0:
            gate.wait()
        return record

    def watch(record: int) -> int:
        passed.append(record)
        if record == 3:
            gate.open()
        return record

    result = engine.over(range(8), lambda s: s.order_by(lambda n: n % 2).map(operator, concurrency=4).map(watch))
    found = result.collected()
    assert [n for n in found if n % 2 == 0] == [0, 2, 4, 6]
    assert [n for n in found if n % 2 == 1] == [1, 3, 5, 7]
    assert passed.index(3) < passed.index(0)


@pytest.mark.parametrize("is_async", [False, True])
def test_order_by_holds_for_records_that_are_tried_again(engine: Engine, is_async: bool) -> None:
    tried: set[int] = set()

    def operator(n: int) -> int:
        if n % 11 == 4 and n not in tried:
            tried.add(n)
            raise ValueError("once")
        return n

    async def operator_async(n: int) -> int:
        return operator(n)

    def build(stream: Any) -> Any:
        ordered = stream.order_by(lambda n: n % 3).map(operator_async if is_async else operator, retries=1)
        return ordered.map(lambda n: n).map(lambda n: n)

    found = engine.over(range(100), build).collected()
    assert len(found) == 100
    for key in range(3):
        assert [n for n in found if n % 3 == key] == list(range(key, 100, 3))


def test_order_by_holds_for_what_is_replaced_or_dead_lettered(engine: Engine, letters: Any) -> None:
    def operator(n: int) -> int:
        if n % 10 == 5:
            raise ValueError("five")
        return n

    result = engine.over(
        range(100),
        lambda s: s.order_by(lambda n: 0).map(operator, concurrency=4, on_error=lambda n, e: -n if n < 50 else None),
    )
    expected = [-n if n % 10 == 5 else n for n in range(100) if n < 50 or n % 10 != 5]
    assert result.collected() == expected
    assert result.account.dead_lettered == 5
