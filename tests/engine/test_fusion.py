"""Steps that run as one loop do what they do one by one: the same results, dead letters, account and figures."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sage
from engines import LocalEngine
from sage import codec
from sage.connectors import Items
from sage.runtime import assembly, retry
from sage.runtime.fusion import FusedRun, fused_runs
from sage.runtime.stage import Stage

FIGURES = ("received", "emitted", "filtered", "merged", "created", "dead_lettered", "retries")
LETTER = ("rid", "step", "reason", "code", "attempts", "input")
MANY = range(300)
"""Records enough for several batches: the first goes through step by step, to be measured."""


class Calls:
    """Counts how often operators are called for each record."""

    def __init__(self) -> None:
        self.made: Counter[tuple[str, str]] = Counter()

    def of(self, name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(record: Any) -> Any:
            self.made[name, repr(record)] += 1
            return function(record)

        return call

    def first(self, name: str, record: Any) -> bool:
        return self.made[name, repr(record)] == 1


Build = Callable[[sage.Stream, Calls], sage.Stream]


@dataclass
class Seen:
    """All that can be seen of a run, in an order that does not depend on how it was run."""

    collected: list[str]
    letters: list[list[Any]]
    account: sage.Account
    figures: dict[str, tuple[int, ...]]
    calls: Counter[tuple[str, str]]


def run(build: Build, records: Sequence[Any], fuse: Callable[[Sequence[Stage]], list[FusedRun]]) -> Seen:
    """Run a pipeline in this process, where its stages are within reach."""
    stages: list[Stage] = []

    def noticing(of_task: Sequence[Stage]) -> list[FusedRun]:
        stages.extend(of_task)
        return fuse(of_task)

    calls = Calls()
    pipeline = sage.Pipeline("fusion")
    build(pipeline.read(Items(list(records))), calls).collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "fused_runs", noticing)
        patch.setattr(retry, "FIRST_BACKOFF_S", 0.0)
        patch.setattr(retry.RetryBudget, "wait_s", lambda budget, now_s: 0.0)
        result = LocalEngine().run(pipeline)
    assert result.error is None, result.error
    assert stages[0].context.ledger.open_records == 0
    letters = [] if result.dead_letters is None else map(codec.decode, result.dead_letters.read_bytes().splitlines())
    return Seen(
        sorted(map(repr, result.collected())),
        sorted(([letter[key] for key in LETTER] for letter in letters), key=repr),
        result.account,
        {stage.plan.name: tuple(getattr(stage.stats, figure) for figure in FIGURES) for stage in stages},
        calls.made,
    )


def both_ways(build: Build, records: Sequence[Any]) -> Seen:
    """What is seen of a run in loops, after a comparison with a run step by step."""
    runs: list[FusedRun] = []

    def fuse(stages: Sequence[Stage]) -> list[FusedRun]:
        runs.extend(fused_runs(stages))
        return list(runs)

    together = run(build, records, fuse)
    assert runs, "nothing was fused"
    assert together == run(build, records, lambda stages: [])
    return together


def children_of(forms: Sequence[str], calls: Calls) -> Callable[[int], Any]:
    """A function for `flat_map` whose result takes one of `forms`, by the record."""

    def lazily(children: list[Any], fails: bool) -> Iterator[Any]:
        yield from children
        if fails:
            raise OSError("in the middle")

    def divide(n: int) -> Any:
        form = forms[n % len(forms)]
        children = [1000 * n + i for i in range(n % 5)]
        match form:
            case "list" | "tuple" | "set" | "frozenset":
                return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[form](children)
            case "subclass":
                return type("Own", (list,), {})(children)
            case "unhashable":
                return [*children, [n], n]
            case "none":
                return [*children, None, n]
            case "generator" | "breaks":
                return lazily(children, form == "breaks")
            case "raises":
                raise ValueError(f"no children: {n}")
            case "stops":
                raise StopIteration(n)
            case "flaky":
                if calls.first("divide", n):
                    raise ValueError("the first time")
                return children
        return {"not many": n, "text": "text", "nothing": None}[form]

    return divide


FORMS = (
    "list", "tuple", "set", "frozenset", "subclass", "unhashable", "none", "generator", "breaks", "raises", "stops",
    "flaky", "not many", "text", "nothing",
)  # fmt: skip


def in_place_of(record: Any, error: Exception) -> Any:
    """An ``on_error`` that gives one record, several, or none."""
    return [-1, [-record, -2], None][record % 3] if isinstance(record, int) else None


def tripled(n: Any) -> Any:
    if n % 7 == 0:
        raise KeyError(n)
    return None if n % 11 == 0 else 3 * n


def not_of_4(n: Any) -> bool:
    if n % 13 == 0:
        raise StopIteration
    return bool(n % 4)


def rest_of_5(n: Any) -> Any:
    return [] if n % 17 == 0 else n % 5


def sum_up(total: Any, n: Any) -> Any:
    if n % 19 == 0:
        raise ArithmeticError(n)
    return total + n


ENDS: dict[str, Callable[[sage.Stream, Calls], sage.Stream]] = {
    "collect": lambda s, calls: s,
    "count": lambda s, calls: s.key_by().count(),
    "count by": lambda s, calls: s.key_by(calls.of("key", rest_of_5)).count(),
    "aggregate": lambda s, calls: s.key_by().aggregate(int, lambda total, _: total + 1),
    "aggregate by": lambda s, calls: s.key_by(calls.of("key", rest_of_5)).aggregate(int, sum_up),
    "aggregate made": lambda s, calls: s.key_by(calls.of("key", rest_of_5)).aggregate(lambda: 0, sum_up),
    "reduce": lambda s, calls: s.key_by(calls.of("key", rest_of_5)).reduce(max),
}


@settings(max_examples=120)
@given(
    forms=st.lists(st.sampled_from(FORMS), min_size=1, max_size=6),
    middle=st.lists(st.sampled_from(["map", "filter"]), max_size=3),
    end=st.sampled_from(sorted(ENDS)),
    options=st.sampled_from([{}, {"retries": 1}, {"on_error": in_place_of}, {"retries": 1, "on_error": in_place_of}]),
    records=st.lists(st.integers(0, 500), min_size=20, max_size=120, unique=True),
)
def test_random_runs(
    forms: list[str], middle: list[str], end: str, options: dict[str, Any], records: list[int]
) -> None:
    def build(stream: sage.Stream, calls: Calls) -> sage.Stream:
        stream = stream.flat_map(calls.of("divide", children_of(forms, calls)), name="divide", **options)
        for index, kind in enumerate(middle):
            if kind == "map":
                stream = stream.map(calls.of(f"map-{index}", tripled), name=f"map-{index}", **options)
            else:
                stream = stream.filter(calls.of(f"filter-{index}", not_of_4), name=f"filter-{index}")
        if not middle and end in ("collect", "count by"):
            stream = stream.map(calls.of("last", tripled), name="last")
        return ENDS[end](stream, calls)

    both_ways(build, records)


@pytest.mark.parametrize("end", ["count", "aggregate"])
def test_children_that_cannot_be_keys_fail_alone(end: str) -> None:
    seen = both_ways(
        lambda s, calls: ENDS[end](s.flat_map(lambda n: ["a", [n], {n: n}, "b", [n]], name="split"), calls), MANY
    )
    assert seen.collected == ["('a', 300)", "('b', 300)"]
    assert {letter[0] for letter in seen.letters} == {f"{rid_of(n)}/split/{i}" for n in MANY for i in (1, 2, 4)}
    assert ["E414", [7]] in [[letter[3], letter[5]] for letter in seen.letters]
    assert seen.account.merged == 600


def rid_of(n: int) -> str:
    """The rid of the record at a position of the items."""
    return f"items/{n}"


def test_a_list_that_a_later_step_changes() -> None:
    class Node:
        def __init__(self) -> None:
            self.parts: list[Node] = []
            self.whole: Node | None = None

    def tree(n: int) -> list[Node]:
        whole = Node()
        whole.parts = [Node() for _ in range(n % 4)]
        for part in whole.parts:
            part.whole = whole
        return whole.parts

    def take_off(part: Node) -> int:
        assert part.whole is not None
        part.whole.parts.remove(part)
        return len(part.whole.parts)

    seen = both_ways(lambda s, calls: s.flat_map(tree).map(take_off), MANY)
    assert seen.account.written == sum(n % 4 for n in MANY)


def test_an_initial_value_is_made_for_each_key() -> None:
    def append(numbers: list[int], n: int) -> list[int]:
        return [*numbers, n] if n % 2 else add(numbers, [n])

    seen = both_ways(
        lambda s, calls: s.flat_map(lambda n: [n, n]).key_by(lambda n: n % 3).aggregate(list, append), MANY
    )
    assert seen.collected == [repr((k, [n for n in MANY[k::3] for _ in range(2)])) for k in range(3)]


def test_keys_of_parents_are_those_of_children() -> None:
    seen = both_ways(
        lambda s, calls: s.key_by(lambda n: n % 3).flat_map(lambda n: [n] * (n % 3)).map(lambda n: n).key_by().count(),
        MANY,
    )
    assert len(seen.collected) == 200


def test_every_step_has_its_share_of_the_time() -> None:
    pipeline = sage.Pipeline("times")
    words = pipeline.read(Items(["a b c"] * 5000)).flat_map(str.split, name="split").key_by(name="key")
    words.aggregate(int, lambda n, _: n + 1, name="sum").collect()
    steps = {step.name: step for step in LocalEngine().run(pipeline).steps}
    for name, received in (("split", 5000), ("key", 15000), ("sum", 15000)):
        assert steps[name].received == received
        assert steps[name].busy_s > 0
        assert steps[name].p50_s is not None
