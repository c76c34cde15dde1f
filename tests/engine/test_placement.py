"""Where tasks run: decided from the graph alone."""

from collections.abc import Callable

import sage
from sage.connectors import Items
from sage.flow.graph import ExecutionGraph
from sage.runtime.placement import place


def graph_of(build: Callable[[sage.Stream], sage.Stream], processes: int) -> ExecutionGraph:
    pipeline = sage.Pipeline("places")
    build(pipeline.read(Items([1]), name="read")).collect()
    return sage.compile_pipeline(pipeline, processes)


async def awaited(x: int) -> int:
    return x


def same(x: int) -> int:
    return x


def test_an_instance_in_each_process() -> None:
    graph = graph_of(lambda s: s.map(same).filter(same, name="keep"), 3)
    placement = place(graph, 3)
    assert placement.hosts == {"read": (0,), "same": (1, 2, 3), "collect": (0,)}
    assert placement.queued == {"same", "collect"}
    assert graph.task_of("keep").name == "same"


def test_with_one_process_everything_is_at_home() -> None:
    graph = graph_of(lambda s: s.map(same, parallelism=2).map(awaited), 1)
    placement = place(graph, 1)
    assert {host for hosts in placement.hosts.values() for host in hosts} == {0}
    assert placement.queued == frozenset()


def test_what_waits_stays() -> None:
    graph = graph_of(lambda s: s.map(awaited).map(same, concurrency=2), 2)
    assert place(graph, 2).queued == frozenset()


def test_a_parallelism_that_is_stated_is_kept_and_spread() -> None:
    graph = graph_of(lambda s: s.map(same, parallelism=1).map(same, parallelism=3, name="b").map(same, name="c"), 2)
    assert place(graph, 2).hosts == {"read": (0,), "same": (1,), "b": (2, 1, 2), "c": (1, 2), "collect": (0,)}


def test_what_is_before_order_by_has_one_instance_and_what_is_behind_goes_by_key() -> None:
    graph = graph_of(lambda s: s.map(same).order_by(same, name="order").map(same, name="behind"), 2)
    assert graph.task_of("order").name == "same"
    assert [(task.name, task.instances, task.keyed) for task in graph.tasks] == [
        ("read", 1, False), ("same", 1, False), ("behind", 2, True), ("collect", 1, False),
    ]  # fmt: skip


def test_tasks_of_one_process_need_no_queue() -> None:
    graph = graph_of(lambda s: s.map(same, parallelism=2).map(list, batch_size=4, parallelism=1, name="all"), 2)
    assert place(graph, 2).queued == {"same", "all", "collect"}
    graph = graph_of(lambda s: s.map(same, parallelism=1).map(list, batch_size=4, parallelism=1, name="all"), 1)
    assert place(graph, 1).queued == frozenset()
