"""A cluster in virtual time: its laws, and that it can be believed."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.errors import SourceError, UsageError
from sage.llm.simulated import Engine, Request, profile_named
from sage.scheduling import names, scheduler_named
from sage.simulation import (
    PIPELINES,
    Closed,
    ClusterModel,
    Demand,
    JobModel,
    NetworkModel,
    NodeModel,
    Outcome,
    Phase,
    Poisson,
    Replay,
    bottleneck_of,
    computing,
    nodes_of,
    pipeline_named,
    read_trace,
    simulate,
)

A100 = profile_named("a100-qwen2.5-3b")
ADAPTIVE = scheduler_named("adaptive")


def job(records: int, in_flight: int = 64, pipeline: str = "compute", name: str = "job", **options: Any) -> JobModel:
    return replace(JobModel(name, PIPELINES[pipeline], records, Closed(in_flight)), **options)


def p99(outcome: Outcome) -> float:
    return sorted(outcome.latencies_s)[int(0.99 * len(outcome.rows))]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(names()),
    nodes=st.lists(
        st.builds(NodeModel, st.integers(1, 4), st.sampled_from([0.25, 1.0, 3.0]), st.none() | st.integers(1, 4)),
        min_size=1,
        max_size=70,
    ),
    pipeline=st.sampled_from(["compute", "mixed", "rag", "adaptive_rag"]),
    records=st.integers(1, 60),
    in_flight=st.integers(1, 100),
    limited=st.booleans(),
)
def test_every_record_ends_and_its_time_adds_up(
    *, name: str, nodes: list[NodeModel], pipeline: str, records: int, in_flight: int, limited: bool
) -> None:
    cluster = ClusterModel(tuple(nodes), endpoints=(A100, A100), limited=limited)
    outcome = simulate(cluster, scheduler_named(name), [job(records, in_flight, pipeline)])
    rows = outcome.rows
    assert sorted(rows.index) == list(range(records))
    assert sum(outcome.given) == records
    for latency_s, *parts in zip(
        outcome.latencies_s, rows.scheduling_s, rows.queueing_s, rows.execution_s, strict=True
    ):
        assert sum(parts) == pytest.approx(latency_s)
        assert min(parts) >= 0


def test_the_same_seed_gives_the_same_run() -> None:
    cluster = replace(nodes_of(8), endpoints=(A100,))
    runs = [simulate(cluster, ADAPTIVE, [job(200, 64, "rag")], seed=seed) for seed in (1, 1, 2)]
    assert runs[0].latencies_s == runs[1].latencies_s != runs[2].latencies_s


def test_an_empty_cluster_takes_what_the_work_takes() -> None:
    quiet = ClusterModel((NodeModel(1),), NetworkModel(0.001, 2e6))  # 1 ms and 1 ms for 2,000 bytes
    outcome = simulate(quiet, ADAPTIVE, [JobModel("one", computing(0.05), 3, Closed(1))])
    assert outcome.latencies_s == pytest.approx([0.054] * 3)
    assert list(outcome.rows.scheduling_s) == pytest.approx([0.004] * 3)


def test_an_endpoint_alone_takes_what_its_engine_takes() -> None:
    exact = replace(A100, jitter=0.0)
    cluster = ClusterModel((NodeModel(1),), NetworkModel(0.0, float("inf")), (exact,))
    draw = pipeline_named("llm")
    outcome = simulate(cluster, ADAPTIVE, [JobModel("one", draw, 1, Closed(1))], seed=3)
    phase = draw(random.Random("3 one records")).phases[0]
    engine = Engine(exact)
    engine.submit(Request("a", phase.prompt_tokens, phase.output_tokens), 0.0)
    at = 0.0
    while (ends := engine.next_event()) is not None:
        at = ends
        engine.advance(ends)
    assert outcome.latencies_s == pytest.approx([at])


def test_queueing_agrees_with_theory() -> None:
    """M/D/1: the mean wait is rho / (2 * (1 - rho)) service times."""
    cluster = ClusterModel((NodeModel(1),), NetworkModel(0.0, float("inf")))
    outcome = simulate(cluster, ADAPTIVE, [JobModel("queue", computing(0.01), 15_000, Poisson(70.0))])
    assert sum(outcome.rows.queueing_s) / 15_000 == pytest.approx(0.01 * 0.7 / (2 * 0.3), rel=0.1)


def throughputs(pipeline: str, nodes: Sequence[int]) -> list[float]:
    figures = []
    for count in nodes:
        cluster = replace(nodes_of(count), endpoints=(A100,))
        outcome = simulate(cluster, ADAPTIVE, [job(800, 16 * count, pipeline)])
        figures.append(800 / outcome.ended_s)
    return figures


def test_more_nodes_do_more() -> None:
    one, four, sixteen = throughputs("compute", [1, 4, 16])
    assert four >= 0.95 * 4 * one
    assert sixteen >= 0.85 * 16 * one  # the last records of so few leave most of it empty


def test_adaptive_keeps_what_was_promised() -> None:
    """On equal nodes, on unequal ones, and with light, medium and heavy records."""
    equal = simulate(nodes_of(16), ADAPTIVE, [job(5_000, 512)])
    assert equal.balance >= 0.98
    unequal = nodes_of(12, speeds=(1.0, 2.0, 4.0))
    burst = simulate(unequal, ADAPTIVE, [job(10_000, 10_000)])
    for index, speed in enumerate((1, 2, 4)):
        assert sum(burst.given[index::3]) == pytest.approx(10_000 * speed / 7, rel=0.05)
    assert 10_000 / burst.ended_s >= 0.95 * 4 * 8 * 7 / 0.025


@pytest.mark.parametrize("speeds", [(1.0,), (1.0, 2.0, 4.0)])
def test_luck_is_not_speed(speeds: tuple[float, ...]) -> None:
    """Records whose size nobody tells: adaptive is still no worse than what does not learn."""

    def unknown(chance: random.Random) -> Demand:
        return computing(0.1 * chance.lognormvariate(0, 0.3))(chance)

    cluster = nodes_of(15, speeds=speeds)
    rate = 0.85 * sum(node.slots * node.speed for node in cluster.nodes) / 0.105
    stream = [JobModel("noisy", unknown, 4_000, Poisson(rate))]
    adaptive, spread = (simulate(cluster, scheduler_named(name), stream) for name in ("adaptive", "load_aware_spread"))
    assert p99(adaptive) <= 1.02 * p99(spread)
    assert adaptive.ended_s <= 1.01 * spread.ended_s


def test_a_large_cluster_is_divided_and_stays_fair() -> None:
    outcome = simulate(nodes_of(1_000), ADAPTIVE, [job(9_000, 4_000)])
    assert outcome.balance >= 0.98
    assert outcome.decisions <= 3 * 9_000


def test_the_bottleneck_is_named() -> None:
    few = replace(nodes_of(64), endpoints=(A100,))
    assert bottleneck_of(few, ADAPTIVE, [job(600, 512, "rag")]) == "endpoints"
    full = replace(nodes_of(8), endpoints=(A100,))  # whoever waits here waits for a slot
    assert bottleneck_of(full, ADAPTIVE, [job(300, 128, "rag")]) == "endpoints"
    assert bottleneck_of(nodes_of(2), ADAPTIVE, [job(600, 64)]) == "node slots"
    assert bottleneck_of(nodes_of(2, slots=32, cores=2), ADAPTIVE, [job(600, 64)]) == "node cores"
    assert bottleneck_of(nodes_of(8), ADAPTIVE, [job(600, 4)]).startswith("none")


def test_equal_jobs_get_equal_shares_of_an_endpoint() -> None:
    cluster = replace(nodes_of(32), endpoints=(A100,))
    jobs = [job(300, 64, "rag", name=f"job{index}") for index in range(4)]
    outcome = simulate(cluster, ADAPTIVE, jobs)
    last_s = [0.0] * 4
    for index, end_s in zip(outcome.rows.job_index, outcome.rows.ended_s, strict=True):
        last_s[index] = max(last_s[index], end_s)
    assert max(last_s) <= 1.1 * min(last_s)


def test_first_come_is_first_served_across_jobs() -> None:
    early, late = job(400, 400, name="early"), job(1, 1, name="late", start_s=0.01)
    last = simulate(nodes_of(1), scheduler_named("fifo"), [early, late]).rows
    urgent = simulate(nodes_of(1), scheduler_named("priority"), [replace(early, band=1), late]).rows
    assert last.ended_s[list(last.job_index).index(1)] > 1.0
    assert urgent.ended_s[list(urgent.job_index).index(1)] < 0.1


def test_admission_shortens_latency_and_costs_no_throughput() -> None:
    crowded = profile_named("peaked")
    cluster = replace(nodes_of(16), endpoints=(crowded,))
    free = [job(200, 128, "rag", name=f"job{index}") for index in range(3)]
    admitted = [replace(each, admitted=True) for each in free]
    flood = simulate(replace(cluster, limited=False), ADAPTIVE, free)
    calm = simulate(cluster, ADAPTIVE, admitted)
    assert p99(calm) <= 0.43 * p99(flood)
    assert calm.ended_s <= 1.03 * flood.ended_s


def test_traces_are_read(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv.gz"
    azure.write_bytes(
        gzip.compress(
            b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
            b"2023-11-16 18:15:48.6805900,396,109"
        )
    )
    mooncake = tmp_path / "mooncake.jsonl"
    mooncake.write_text('{"timestamp": 500, "input_length": 10, "output_length": 5, "hash_ids": []}\n')
    first, second = read_trace(azure, speed=2.0).arrivals
    assert (first[0], second[0]) == pytest.approx((0.0, 1.0))
    assert second[1].phases[0][1:] == (396, 109)
    assert len(read_trace(azure, most=1).arrivals) == len(read_trace(mooncake).arrivals) == 1


@pytest.mark.parametrize("content", [b"", b"TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", b"\xff\xfe\x00"])
def test_broken_traces_are_refused(tmp_path: Path, content: bytes) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_bytes(content)
    with pytest.raises(SourceError, match=r"E306 .*trace"):
        read_trace(trace)


def replayed(prompt: int, output: int) -> Outcome:
    arrivals = [(0.0, Demand((Phase(0.0, *tokens),), 1.0)) for tokens in ((10, 5), (prompt, output))]
    cluster = replace(nodes_of(1), endpoints=(A100,))
    return simulate(cluster, ADAPTIVE, [JobModel("long", None, 2, Replay(arrivals))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nodes_of(0), "bad number of nodes: got 0"),
        (lambda: nodes_of(4, speeds=(0.0,)), "a node without slots, speed or cores"),
        (lambda: pipeline_named("nope"), "no such pipeline at pipeline: got nope, expected compute"),
        (lambda: job(0), "bad load at job job: got 0 of 0 records"),
        (lambda: simulate(nodes_of(1), ADAPTIVE, []), "there is no job"),
        (lambda: simulate(nodes_of(1), ADAPTIVE, [job(1), job(1)]), "jobs have the same name"),
        (lambda: simulate(nodes_of(1), ADAPTIVE, [job(1, 1, "rag")]), "records ask an endpoint, and there is none"),
        (lambda: replayed(30_000, 2_769), "longer than an endpoint takes at job long, request 2: got 32769 tokens"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("seed", [0, 2])
def test_a_limit_found_by_feedback_floods_no_node(seed: int) -> None:
    """Nodes accept eight times what they can do at once: what looks quicker for a moment gets no more for it."""
    outcome = simulate(nodes_of(4, slots=64, cores=8), ADAPTIVE, [job(3_000, 512, adaptive=True)], seed=seed)
    assert outcome.balance >= 0.97
    assert 3_000 / outcome.ended_s >= 0.9 * 4 * 8 / 0.025
