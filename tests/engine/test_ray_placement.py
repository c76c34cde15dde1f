"""Placement on a cluster: from the graph, the nodes and a scheduler alone. And what is refused before a cluster is."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sage
from sage.connectors import Items
from sage.flow.graph import ExecutionGraph
from sage.runtime.placement import HOME
from sage.runtime.ray_placement import MOST_HOSTS, place_on, seats_on
from sage.scheduling import Node, names, scheduler_named

NODES = [Node("a", slots=2), Node("b", slots=2, free={"gpu": 1.0}), Node("c", slots=4)]


def same(x: int) -> int:
    return x


async def awaited(x: int) -> int:
    return x


def graph_of(build: Callable[[sage.Stream], sage.Stream], hosts: int) -> ExecutionGraph:
    pipeline = sage.Pipeline("places")
    build(pipeline.read(Items([1]), name="read")).collect()
    return sage.compile_pipeline(pipeline, hosts, on_cluster=True)


def test_a_host_for_each_slot() -> None:
    assert Counter(seat.node for seat in seats_on(NODES, None)) == {"a": 2, "b": 2, "c": 4}
    assert [seat.number for seat in seats_on(NODES, None)] == list(range(1, 9))


@given(slots=st.lists(st.integers(1, 64), min_size=1, max_size=20), hosts=st.none() | st.integers(1, 128))
def test_hosts_are_spread_by_slots(slots: list[int], hosts: int | None) -> None:
    nodes = [Node(str(index), slots=count) for index, count in enumerate(slots)]
    seats = seats_on(nodes, hosts)
    assert len(seats) == (hosts or min(MOST_HOSTS, sum(slots)))
    given_ = Counter(seat.node for seat in seats)
    for node in nodes:  # none of its hosts would have been better off on another node
        assert all(given_[node.name] / node.slots <= (given_[other.name] + 1) / other.slots for other in nodes)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("hosts", [1, 2, 5, 8])
def test_every_scheduler_places_every_instance(name: str, hosts: int) -> None:
    seats = seats_on(NODES, hosts)
    graph = graph_of(lambda s: s.map(same).map(awaited, parallelism=3).map(same, name="last"), hosts)
    placement = place_on(graph, NODES, seats, scheduler_named(name))
    assert placement.hosts["read"] == placement.hosts["collect"] == (HOME,)
    for task in ("same", "awaited", "last"):
        assert len(placement.hosts[task]) == graph.task_of(task).instances
        assert set(placement.hosts[task]) <= {seat.number for seat in seats}


@pytest.mark.parametrize("name", ["adaptive", "load_aware_spread", "round_robin"])
def test_a_step_without_a_number_of_instances_has_one_on_every_host(name: str) -> None:
    seats = seats_on(NODES[:2], None)
    placement = place_on(graph_of(lambda s: s.map(same), 4), NODES[:2], seats, scheduler_named(name))
    assert sorted(placement.hosts["same"]) == [1, 2, 3, 4]


def test_pack_leaves_nodes_to_others() -> None:
    seats = seats_on(NODES[:2], None)
    graph = graph_of(lambda s: s.map(same, parallelism=2), 4)
    node_of = {seat.number: seat.node for seat in seats}
    packed = place_on(graph, NODES[:2], seats, scheduler_named("load_aware_pack")).hosts["same"]
    spread = place_on(graph, NODES[:2], seats, scheduler_named("load_aware_spread")).hosts["same"]
    assert len({node_of[host] for host in packed}) == 1
    assert len({node_of[host] for host in spread}) == 2


def test_what_asks_for_something_goes_where_it_is() -> None:
    seats = seats_on(NODES, None)
    graph = graph_of(lambda s: s.map(awaited, resources={"gpu": 0.5}, parallelism=2), 8)
    hosts = place_on(graph, NODES, seats, scheduler_named("adaptive")).hosts["awaited"]
    assert {seat.node for seat in seats if seat.number in hosts} == {"b"}
    too_much = graph_of(lambda s: s.map(awaited, resources={"gpu": 0.6}, parallelism=2), 8)
    with pytest.raises(sage.PipelineError, match=r"E245 .*0.4 of 0.6 gpu left"):
        place_on(too_much, NODES, seats, scheduler_named("adaptive"))


def test_queues_lie_where_records_change_hosts() -> None:
    seats = seats_on(NODES[:2], None)

    def queued(build: Callable[[sage.Stream], sage.Stream]) -> frozenset[str]:
        return place_on(graph_of(build, 4), NODES[:2], seats, scheduler_named("adaptive")).queued

    assert queued(lambda s: s.map(same).map(list, name="all", batch_size=4)) == {"same", "collect"}
    assert queued(lambda s: s.map(same).map(list, name="all", batch_size=4, parallelism=2)) == {
        "same",
        "all",
        "collect",
    }
    assert queued(lambda s: s.map(same).order_by(same, name="o").map(same, name="b")) == {"same", "b", "collect"}
    assert queued(lambda s: s.map(awaited)) == frozenset()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"hosts": 0}, "E111"),
        ({"hosts": 129}, "E111"),
        ({"hosts": "2"}, "E111"),
        ({"scheduler": "best"}, "E246"),
        ({"processes": 2}, "E113"),
    ],
)
def test_options_that_are_not_possible_are_told_before_a_cluster_is_started(options: dict[str, Any], code: str) -> None:
    pipeline = sage.Pipeline("none")
    pipeline.read(Items([1])).collect()
    with pytest.raises(sage.SageError, match=code):
        sage.run(pipeline, engine="ray", **options)


def test_a_mistake_is_told_before_a_cluster_is_started() -> None:
    with pytest.raises(sage.PipelineError, match="E210"):
        sage.run(sage.Pipeline("empty"), engine="ray")
