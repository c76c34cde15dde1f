"""Compilation: which steps share a task, and how the tasks are wired."""

from typing import Any

import pytest

from sage import Pipeline, compile_pipeline
from sage.connectors import Items
from sage.flow import ExecutionGraph, Mode


def same(x: Any) -> Any:
    return x


async def awaited(x: Any) -> Any:
    return x


def graph(build: Any) -> ExecutionGraph:
    pipeline = Pipeline("graph")
    stream = build(pipeline.read(Items([1]), name="read"))
    if stream is not None:
        stream.collect("end")
    return compile_pipeline(pipeline)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda s: s.map(same, name="a").filter(same, name="b"), "read: read > a > b > end [source x1]"),
        (
            lambda s: s.map(awaited, name="a").map(same, name="b"),
            "read: read [source x1] -> a\na: a [async x1] -> b\nb: b > end [inline x1]",
        ),
        (
            lambda s: s.map(same, name="a", concurrency=4).map(same, name="b"),
            "read: read [source x1] -> a\na: a [threads x1] -> b\nb: b > end [inline x1]",
        ),
        (
            lambda s: s.map(same, name="a", parallelism=2).map(same, name="b", parallelism=2).map(same, name="c"),
            "read: read [source x1] -> a\na: a > b [inline x2] -> c\nc: c > end [inline x1]",
        ),
        (
            lambda s: s.map(same, name="a", batch_size=8).map(same, name="b"),
            "read: read [source x1] -> a\na: a > b > end [inline x1]",
        ),
        (
            lambda s: s.map(same, name="a").map(same, name="b", batch_size=8),
            "read: read > a [source x1] -> b\nb: b > end [inline x1]",
        ),
        (lambda s: s.key_by(str, name="k").count(name="n"), "read: read > k > n > end [source x1]"),
        (
            lambda s: s.key_by(str, name="k").count(name="n", parallelism=2),
            "read: read > k [source x1] -> n\nn: n [inline x2] -> end\nend: end [inline x1]",
        ),
        (
            lambda s: s.map(same, name="a").union(s.map(same, name="b")),
            "read: read > a > b > union > end [source x1]",
        ),
        (
            lambda s: s.map(awaited, name="a").union(s),
            "read: read [source x1] -> a, union\na: a [async x1] -> union\nunion: union > end [inline x1]",
        ),
    ],
)
def test_fusion(build: Any, words: str) -> None:
    assert graph(build).describe() == words


def test_options_and_their_defaults() -> None:
    found = graph(lambda s: s.map(same, name="a").map(awaited, name="b").map(same, name="c", retries=2, timeout_s=3))
    a, b, c = (found.steps[name] for name in "abc")
    assert (a.concurrency, a.parallelism, a.retries, a.timeout_s, a.batch_size, a.on_error) == (
        1, 1, 0, None, None, "dead_letter",
    )  # fmt: skip
    assert (b.is_async, b.concurrency) == (True, 64)
    assert (c.retries, c.timeout_s) == (2, 3)


def test_order_and_keys() -> None:
    found = graph(
        lambda s: s.map(same, name="a", parallelism=2).order_by(str, name="o").map(same, name="b", parallelism=3)
    )
    tasks = {task.name: task for task in found.tasks}
    assert [(tasks[n].ordered, tasks[n].keyed) for n in ("a", "o", "b", "end")] == [
        (False, False), (True, False), (True, True), (True, False),
    ]  # fmt: skip
    counted = graph(lambda s: s.order_by(str).key_by(str).count(name="n", parallelism=2))
    assert (counted.task_of("n").ordered, counted.task_of("n").keyed) == (False, True)


@pytest.mark.parametrize("steps", [1, 500, 3000])
def test_chains_are_no_longer_than_the_stack_is_deep(steps: int) -> None:
    def build(stream: Any) -> Any:
        for _ in range(steps):
            stream = stream.map(same)
        return stream

    found = graph(build)
    assert max(len(task.steps) for task in found.tasks) <= 64
    assert sum(len(task.steps) for task in found.tasks) == steps + 2


def test_a_source_reads_no_more_at_once_than_queues_behind_it_hold() -> None:
    found = graph(lambda s: s.map(awaited, name="a", concurrency=2))
    assert found.source_chunk(found.tasks[0]) <= found.task_of("a").capacity // 2
    assert found.task_of("a").mode is Mode.ASYNC


def test_compiling_changes_nothing() -> None:
    pipeline = Pipeline("twice")
    pipeline.read(Items([1])).map(same).collect()
    assert compile_pipeline(pipeline) == compile_pipeline(pipeline)
