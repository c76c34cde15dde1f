"""Random pipelines over random records give what a few lines of plain Python give, and their account balances."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sage
from engines import Engine
from sage.connectors import Items

FAILS = 7
"""A record that is divisible by it makes steps fail."""


def check(n: int, fails: bool) -> None:
    if fails and n % FAILS == 0:
        raise ValueError("divisible")


@dataclass(frozen=True)
class Op:
    """A step: how it is built, and what it makes of one record (any number of records, or None if it fails)."""

    kind: str
    fails: bool
    options: tuple[tuple[str, Any], ...]

    def add_to(self, stream: sage.Stream) -> sage.Stream:
        fails, options = self.fails, dict(self.options)

        def map_(n: int) -> int:
            check(n, fails)
            return 3 * n + 1

        async def map_async(n: int) -> int:
            await asyncio.sleep(0)
            return map_(n)

        def map_all(batch: list[int]) -> list[int]:
            return [map_(n) for n in batch]

        async def map_all_async(batch: list[int]) -> list[int]:
            return map_all(batch)

        def keep(n: int) -> bool:
            check(n, fails)
            return n % 3 != 0

        def split(n: int) -> Any:
            check(n, fails)
            return [n + 1000 * i for i in range(n % 4)]

        def split_lazily(n: int) -> Any:
            yield from split(n)

        async def split_async(n: int) -> Any:
            return split(n)

        match self.kind:
            case "map":
                return stream.map(map_, **options)
            case "map async":
                return stream.map(map_async, **options)
            case "batch":
                return stream.map(map_all, batch_size=5, **options)
            case "batch async":
                return stream.map(map_all_async, batch_size=5, **options)
            case "filter":
                return stream.filter(keep, **options)
            case "flat_map":
                return stream.flat_map(split, **options)
            case "flat_map lazy":
                return stream.flat_map(split_lazily, **options)
            case "flat_map async":
                return stream.flat_map(split_async, **options)
            case "route":
                branches = stream.route(even=lambda n: n % 2 == 0)
                return branches.even.map(map_, **options).union(branches.otherwise)
            case "twice":
                return stream.map(map_, **options).union(stream)
            case "order":
                return stream.order_by(lambda n: n % 3)
        raise AssertionError(self.kind)

    def model(self, n: int) -> list[int] | None:
        failed = self.fails and n % FAILS == 0
        if self.kind.startswith(("map", "batch")):
            return None if failed else [3 * n + 1]
        if self.kind == "filter":
            return None if failed else [n] if n % 3 else []
        if self.kind.startswith("flat_map"):
            return None if failed else [n + 1000 * i for i in range(n % 4)]
        if self.kind == "route":
            return [n] if n % 2 else None if failed else [3 * n + 1]
        if self.kind == "twice":
            return [n] if failed else [n, 3 * n + 1]
        return [n]

    def dead(self, n: int) -> bool:
        """Whether a dead letter comes of it."""
        return self.fails and n % FAILS == 0 and self.kind != "order" and (self.kind != "route" or n % 2 == 0)


KINDS = (
    "map", "map async", "batch", "batch async", "filter", "flat_map", "flat_map lazy", "flat_map async", "route",
    "twice", "order",
)  # fmt: skip
OPTIONS: tuple[tuple[tuple[str, Any], ...], ...] = (
    (), (("parallelism", 2),), (("concurrency", 3),), (("parallelism", 2), ("concurrency", 2)), (("timeout_s", 60),),
)  # fmt: skip
ops = st.builds(Op, st.sampled_from(KINDS), st.booleans(), st.sampled_from(OPTIONS))
runs: Callable[..., Any] = settings(max_examples=60)


def expected(chain: list[Op], records: list[int]) -> tuple[list[int], int]:
    dead = 0
    for op in chain:
        following: list[int] = []
        for n in records:
            dead += op.dead(n)
            following += op.model(n) or []
        records = following
    return records, dead


@pytest.mark.one_process("hundreds of runs; test_processes.py makes fewer")
@runs
@given(chain=st.lists(ops, max_size=6), records=st.lists(st.integers(0, 300), max_size=80))
def test_random_pipelines(engine: Engine, chain: list[Op], records: list[int]) -> None:
    def build(stream: sage.Stream) -> sage.Stream:
        for op in chain:
            stream = op.add_to(stream)
        return stream

    result = engine.over(records, build)
    wanted, dead = expected(chain, records)
    assert result.error is None, result.error
    assert Counter(result.collected()) == Counter(wanted)
    assert result.account.dead_lettered == dead
    assert result.account.read == len(records)
    assert result.account.written == len(wanted)


@pytest.mark.one_process("hundreds of runs; test_processes.py makes fewer")
@runs
@given(
    chain=st.lists(ops.filter(lambda op: op.kind not in ("twice", "route")), max_size=5),
    records=st.lists(st.integers(0, 300), max_size=60),
)
def test_random_pipelines_keep_the_order_of_keys(engine: Engine, chain: list[Op], records: list[int]) -> None:
    """Everything behind `order_by` with one key for all leaves in the order of the source."""

    def build(stream: sage.Stream) -> sage.Stream:
        stream = stream.order_by(lambda n: 0)
        for op in chain:
            if op.kind != "order":
                stream = op.add_to(stream)
        return stream

    result = engine.over(records, build)
    wanted, _ = expected(chain, records)
    assert result.collected() == wanted


@pytest.mark.one_process("hundreds of runs; test_processes.py makes fewer")
@runs
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    chain=st.lists(ops, max_size=3),
    parallelism=st.sampled_from([1, 3]),
)
def test_random_sources_counted_by_key(engine: Engine, sizes: list[int], chain: list[Op], parallelism: int) -> None:
    pipeline = sage.Pipeline("model")
    streams = [pipeline.read(Items(range(size), name=f"s{number}")) for number, size in enumerate(sizes)]
    stream = streams[0].union(*streams[1:])
    for op in chain:
        stream = op.add_to(stream)
    stream.key_by(lambda n: n % 5).count(parallelism=parallelism).collect()
    result = engine.run(pipeline)
    wanted, dead = expected(chain, [n for size in sizes for n in range(size)])
    assert dict(result.collected()) == Counter(n % 5 for n in wanted)
    assert result.account.dead_lettered == dead
    assert result.account.merged == len(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_many_more_records(engine: Engine, seed: int) -> None:
    chains = [
        [Op("map", True, ()), Op("flat_map", False, ()), Op("filter", True, ()),
         Op("map", False, (("parallelism", 2),))],
        [Op("twice", True, ()), Op("batch", True, (("concurrency", 3),)), Op("route", True, ())],
        [Op("map async", True, (("parallelism", 2),)), Op("flat_map lazy", True, ()), Op("order", False, ()),
         Op("map", True, (("concurrency", 3),))],
    ]  # fmt: skip

    def build(stream: sage.Stream) -> sage.Stream:
        for op in chains[seed]:
            stream = op.add_to(stream)
        return stream

    result = engine.over(range(2500), build)
    wanted, dead = expected(chains[seed], list(range(2500)))
    assert Counter(result.collected()) == Counter(wanted)
    assert result.account.dead_lettered == dead
