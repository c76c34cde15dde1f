"""What the engine does not do yet; each of these will fail loudly when it does."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sage
from engines import Engine

gap = functools.partial(pytest.mark.xfail, strict=True)


@gap(reason="None is refused as a record everywhere but among the children of flat_map")
def test_none_among_the_children_of_flat_map(engine: Engine) -> None:
    assert None not in engine.over([1], lambda s: s.flat_map(lambda x: [None, x])).collected()


@gap(reason="the time limit of a generator ends when the generator has been made")
def test_a_time_limit_on_a_generator(engine: Engine) -> None:
    def slow(x: int) -> Iterator[int]:
        threading.Event().wait(0.2)
        yield x

    assert engine.over([1], lambda s: s.flat_map(slow, timeout_s=0.05)).account.dead_lettered == 1


@gap(reason="what a generator raises is not tried again, although no child has left yet")
def test_retries_of_a_generator(engine: Engine) -> None:
    calls: list[int] = []

    def flaky(x: int) -> Iterator[int]:
        calls.append(x)
        if len(calls) == 1:
            raise ValueError("once")
        yield x

    assert engine.over([1], lambda s: s.flat_map(flaky, retries=3)).collected() == [1]


async def ask(x: int) -> int:
    return x


def test_a_plain_function_that_returns_coroutines(engine: Engine) -> None:
    def decorated(x: int) -> Any:
        return ask(x)

    error = engine.over([1, 2], lambda s: s.map(decorated)).error
    assert isinstance(error, sage.PipelineError)
    assert error.code == "E219"


class Key:
    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.n == self.n

    def __hash__(self) -> int:
        return self.n


@gap(reason="keys are told apart by their repr when they are dealt to instances")
def test_keys_of_a_class_whose_repr_tells_equal_ones_apart(engine: Engine) -> None:
    keys = [Key(1) for _ in range(50)]
    assert len(engine.over(keys, lambda s: s.key_by(lambda k: k).count(parallelism=4)).collected()) == 1
