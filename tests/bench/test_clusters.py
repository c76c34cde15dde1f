"""Experiments on real processes and on Ray: which cases a cluster takes, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage.bench import EXPERIMENTS, Case, Load, Options, Report, executor_for, executor_of_many, run_experiment
from sage.bench.emulated import EmulatedCluster, plans_for
from sage.bench.environment import environment
from sage.bench.figures import figures_of
from sage.bench.joined import JoinedCluster
from sage.bench.plots import plots_of
from sage.bench.statistics import estimate
from sage.bench.texts import notes
from sage.cluster import Cluster, plan
from sage.errors import ClusterError, UsageError

CASE = Case("two", 2, nodes=2, slots=2, loads=(Load("compute", "compute", 24),))
FACTORS = {"kind": "factor", "tasks": 4, "workers": 2}


def test_the_first_n_nodes_are_known_for_every_n() -> None:
    nodes = plans_for(3, 2)
    assert [node.cpus for node in nodes] == [2, 2, 2]
    for count in (1, 2, 3):
        among = {f"sage_among_{count}"}
        assert [bool(among & set(node.resources)) for node in nodes] == [number < count for number in range(3)]


def test_memory_is_looked_at_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "free_memory_bytes", lambda: 2_000_000_000)
    options = Options(nodes=(1, 16), tasks=40, repeat=1, pipeline="compute", cluster="emulated")
    with pytest.raises(ClusterError, match=r"E837 .*16 nodes.*at most 5 nodes"):
        run_experiment(EXPERIMENTS["scaling"], executor_for("emulated"), options, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_no_emulated_cluster_is_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E104 bad number of nodes"):
        EmulatedCluster().check(Case("many", 1, nodes=100, loads=CASE.loads))
    with pytest.raises(UsageError, match="E104 too many workers"):
        EmulatedCluster().check(Case("many", 1, nodes=6, slots=40))
    with pytest.raises(UsageError, match="E104 this takes real processes"):
        run_experiment(EXPERIMENTS["primes"], executor_for("virtual"), Options(repeat=1), tmp_path)


def test_of_many_experiments_those_that_cannot_run_on_a_cluster_run_in_virtual_time() -> None:
    executor, why = executor_of_many(EXPERIMENTS["isolation"], Options(cluster="local"))
    assert (executor.where, "E104 this cluster cannot run the case" in why) == ("virtual time", True)
    executor, why = executor_of_many(EXPERIMENTS["scaling"], Options(cluster="local"))
    assert (executor.where, why) == ("processes of this machine", "")
    assert executor_of_many(EXPERIMENTS["queue"], Options(cluster="local"))[1] == ""


def test_a_plot_without_a_line_is_left_out(tmp_path: Path) -> None:
    cases = EXPERIMENTS["primes"].cases(Options(cluster="emulated", nodes=(2,), workers=(1,)))
    found = {case.name: {"throughput_per_s": estimate([1.0]), "node_efficiency": estimate([1.0])} for case in cases}
    report = Report(EXPERIMENTS["primes"], cases, found, "nowhere", Options(), environment(), 1.0)
    assert [plot.name for plot in plots_of(report)] == ["throughput", "efficiency"]
    assert "warm-up" not in " ".join(notes(report))  # of records that come home there is none here


def test_primes_say_which_nodes_and_workers() -> None:
    primes = EXPERIMENTS["primes"].cases
    asked = [(case.nodes, case.slots) for case in primes(Options(cluster="emulated")) if case.name.count(" x ")]
    assert asked == [*((1, workers) for workers in range(1, 7)), *((nodes, 2) for nodes in range(2, 7))]
    grid = primes(Options(cluster="emulated", nodes=(1, 3), workers=(2,)))
    assert [case.name for case in grid] == ["2 plain", "1 x 2", "6 plain", "3 x 2"]
    assert [case.nodes for case in grid] == [0, 1, 0, 3]


@pytest.fixture
def joined(two_nodes: Cluster, ray_driver: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoinedCluster]:
    """The cluster that the tests of engines have."""
    monkeypatch.setattr("sage.bench.joined.join", lambda address: two_nodes)
    cluster = JoinedCluster("a-cluster")
    yield cluster
    cluster.close()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning")
def test_cases_run_on_a_cluster_that_is_there(joined: JoinedCluster) -> None:
    for wrong in (Case("three", 3, nodes=3, loads=CASE.loads), Case("one", 1, nodes=1, slots=2)):
        with pytest.raises(UsageError, match=r"E104 this cluster cannot run the case.*expected 2, as many as it has"):
            joined.check(wrong)
    joined.check(CASE)
    run = joined.run(CASE, 0)
    assert set(run.rows.node) == {0, 1}
    assert figures_of(CASE, run)["throughput_per_s"] > 0


@pytest.mark.thorough
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning")
def test_an_emulated_cluster_runs_on_ray_and_ends() -> None:
    cluster = EmulatedCluster()
    one, two = (Case("factors", count, nodes=count, slots=2, settings=FACTORS) for count in (1, 2))
    try:
        for case in (one, two):
            cluster.check(case)
        assert len(cluster.perform(hash, 6, one)) == 6
        assert len({record.host for record in cluster.perform(hash, 12, two)}) <= 4
        assert len(cluster.run(CASE, 0).rows) == 24
        figures, _ = EXPERIMENTS["primes"].measure(replace(two, settings={**FACTORS, "workers": 4}), cluster, 0)
        assert figures["error_rate"] == 0
    finally:
        cluster.close()
    cluster.close()
