"""The laws of the schedulers, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from virtual_cluster import Arrival, simulate

from sage.errors import SchedulingError
from sage.scheduling import (
    Adaptive,
    Cluster,
    Fifo,
    LoadAwarePack,
    LoadAwareSpread,
    Node,
    Priority,
    Replica,
    RoundRobin,
    Scheduler,
    Task,
    Work,
    names,
    scheduler_named,
)
from sage.testing import check_scheduler

EQUAL = [(8, 1.0)] * 4
UNEQUAL = [(8, 1.0), (8, 2.0), (8, 4.0)]


def at_once(records: int, cost_s: float = 0.1) -> list[Arrival]:
    return [Arrival(0.0, cost_s) for _ in range(records)]


def mixed(records: int, load: float, slots: int, seed: int = 1) -> list[Arrival]:
    """Light, medium and heavy records (1:4:20), in a Poisson stream that asks for `load` of the slots."""
    chance = random.Random(seed)
    costs = [chance.choices([0.05, 0.2, 1.0], [6, 3, 1])[0] for _ in range(records)]
    rate = load * slots / (sum(costs) / len(costs))
    at_s, arrivals = 0.0, []
    for cost_s in costs:
        at_s += chance.expovariate(rate)
        arrivals.append(Arrival(at_s, cost_s, weight=cost_s * 20))
    return arrivals


@pytest.mark.parametrize("name", names())
def test_every_scheduler_keeps_the_contract(name: str) -> None:
    scheduler = scheduler_named(name)
    assert scheduler.name == name
    check_scheduler(scheduler)


@pytest.mark.parametrize("name", names())
def test_every_piece_of_work_is_done(name: str) -> None:
    arrivals = mixed(500, 0.8, 32)
    outcome = simulate(scheduler_named(name), EQUAL, arrivals)
    assert len(outcome.latencies_s) == len(arrivals)


@pytest.mark.parametrize("scheduler", [LoadAwareSpread(), Adaptive(), RoundRobin()])
def test_equal_nodes_get_equal_shares(scheduler: Scheduler) -> None:
    assert simulate(scheduler, EQUAL, at_once(2_000)).balance >= 0.98
    assert simulate(scheduler, EQUAL, mixed(2_000, 0.5, 32)).balance >= 0.98


def test_adaptive_gives_each_node_what_it_can_do() -> None:
    records = 7_000
    outcome = simulate(Adaptive(), UNEQUAL, at_once(records))
    for given, speed in zip(outcome.given, (1, 2, 4), strict=True):
        assert given == pytest.approx(records * speed / 7, rel=0.05)
    ideal_s = records * 0.1 / (8 * 7)
    assert outcome.makespan_s <= ideal_s / 0.95
    in_turn = simulate(RoundRobin(), UNEQUAL, at_once(records))
    assert in_turn.makespan_s > 2 * outcome.makespan_s  # it gets 3/7 of what is there


def test_adaptive_does_not_wait_for_a_slow_node_at_the_end() -> None:
    nodes = [(10, 1.0), (1, 0.05)]
    arrivals = [*at_once(20, cost_s=1.0), *[Arrival(60.0, 1.0)] * 100]  # the first 20 show how quick each node is
    assert simulate(Adaptive(), nodes, arrivals).makespan_s < 75
    assert simulate(Fifo(), nodes, arrivals).makespan_s > 75


@pytest.mark.parametrize("nodes", [EQUAL, UNEQUAL])
def test_adaptive_is_as_good_as_the_best_at_its_own_game(nodes: list[tuple[int, float]]) -> None:
    slots = int(sum(slots * speed for slots, speed in nodes))
    streams = [mixed(2_000, 0.85, slots, seed) for seed in range(4)]
    adaptive, fifo, spread = (
        [simulate(scheduler, nodes, arrivals) for arrivals in streams]
        for scheduler in (Adaptive(), Fifo(), LoadAwareSpread())
    )
    assert sum(run.makespan_s for run in adaptive) <= 1.005 * sum(run.makespan_s for run in fifo)
    assert sum(run.p99_s() for run in adaptive) <= 1.005 * sum(run.p99_s() for run in spread)


def high_and_low(records: int) -> list[Arrival]:
    """A stream of urgent work that takes a third of the slots, above more of the other than fits."""
    chance = random.Random(5)
    arrivals = [Arrival(index * 0.02, 0.2 * chance.uniform(0.5, 1.5), band=0) for index in range(records)]
    arrivals += [Arrival(0.0, 0.2 * chance.uniform(0.5, 1.5), band=1) for _ in range(records)]
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


@pytest.mark.parametrize("scheduler", [Priority(), Adaptive()])
def test_urgent_work_is_not_held_up(scheduler: Scheduler) -> None:
    arrivals = high_and_low(2_000)
    together = simulate(scheduler, EQUAL, arrivals)
    alone = simulate(scheduler, EQUAL, [arrival for arrival in arrivals if arrival.band == 0])
    assert together.p99_s(band=0) <= 1.2 * alone.p99_s(band=0)
    assert len(together.latencies_s) == len(arrivals)


@pytest.mark.parametrize("scheduler", [Priority(ageing_s=5.0), Adaptive(ageing_s=5.0)])
def test_nothing_starves_under_endless_urgent_work(scheduler: Scheduler) -> None:
    urgent = [Arrival(index * 0.02, 1.0, band=0) for index in range(2_000)]  # 50 of 32 slots, all the time
    outcome = simulate(scheduler, EQUAL, sorted([*urgent, Arrival(1.0, 1.0, band=2)], key=lambda a: a.at_s))
    low = next(seconds for index, seconds in outcome.latencies_s.items() if outcome.arrivals[index].band == 2)
    assert low < 40


def test_jobs_with_equal_weights_get_equal_shares() -> None:
    heavy = [Arrival(0.0, 0.4, job="heavy", weight=4.0) for _ in range(400)]
    light = [Arrival(0.0, 0.1, job="light", weight=1.0) for _ in range(400)]
    outcome = simulate(Adaptive(), [(4, 1.0)], [*heavy, *light])
    light_s = max(s for i, s in outcome.latencies_s.items() if outcome.arrivals[i].job == "light")
    assert light_s == pytest.approx(2 * 400 * 0.1 / 4, rel=0.15)  # half of the slots until it is done


def test_placement_follows_the_law_of_each() -> None:
    nodes = (Node("a", 4, used=3), Node("b", 4, used=1), Node("c", 4, used=4))
    cluster = Cluster(nodes, placed=4)
    chosen = {name: scheduler_named(name).place(Task("t"), cluster).choice for name in names()}
    assert chosen == {
        "adaptive": "b",
        "fifo": "a",
        "load_aware_pack": "a",
        "load_aware_spread": "b",
        "priority": "b",
        "round_robin": "b",
    }


def test_adaptive_places_on_quick_nodes_and_near_neighbours() -> None:
    quick = Cluster((Node("a", 4), Node("b", 4, speed=3.0)))
    assert Adaptive().place(Task("t"), quick).choice == "b"
    equal = Cluster((Node("a", 4), Node("b", 4)))
    assert Adaptive().place(Task("t", near=("b",)), equal).choice == "b"


def test_a_task_that_fits_nowhere_is_refused_with_each_nodes_reason() -> None:
    cluster = Cluster((Node("a", 4), Node("b", 4, accepts=False), Node("c", 4, labels={"zone": "x"}, free={"gpu": 1})))
    with pytest.raises(SchedulingError, match=r"^E245 .*a: its zone is not y; b: takes no tasks now; c: its zone"):
        Adaptive().place(Task("t", labels={"zone": "y"}), cluster)
    with pytest.raises(SchedulingError, match="1 of 2 gpu left"):
        Fifo().place(Task("t", needs={"gpu": 2}, labels={"zone": "x"}), cluster)
    with pytest.raises(SchedulingError, match="E246 there is no such scheduler: got nope, expected adaptive, fifo"):
        scheduler_named("nope")


def test_pack_leaves_nodes_empty_and_spread_does_not() -> None:
    def used(scheduler: Scheduler) -> Sequence[int]:
        return simulate(scheduler, EQUAL, [Arrival(index * 1.0, 0.5) for index in range(40)]).given

    assert used(LoadAwarePack()) == [40, 0, 0, 0]
    assert used(LoadAwareSpread()) == [10, 10, 10, 10]


def test_a_decision_says_why() -> None:
    replicas = [Replica("slow", 1, speed=0.1), Replica("quick", 1, running=1, backlog_s=0.5, speed=1.0)]
    decision = Adaptive().choose(Work(cost_s=1.0), replicas, waiting_s=1.0)
    assert decision.choice is None
    assert "quicker ones will have done all that waits in 1.5 s" in decision.reason
    assert Adaptive().choose(Work(cost_s=1.0), replicas, waiting_s=100.0).choice == 0
