"""More nodes, the same load for each run: does everybody do their share?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage.bench.case import Case, Load
from sage.bench.experiment import (
    BALANCE,
    MEAN,
    OF_IDEAL,
    P50,
    P95,
    P99,
    THROUGHPUT,
    Column,
    Experiment,
    Figures,
    Medians,
    Plot,
    of_ideal,
)
from sage.bench.options import Options

NODES = (1, 4, 8, 16)
SPEED_UP = Column("speed_up", "speed-up", digits=2, better="higher")
EFFICIENCY = Column("efficiency", "efficiency (%)", 100, 1, "higher")
PIPELINES = ("compute", "rag")
SLOTS = {"rag": 1}
"""A rag record of the published runs held its node for half a second, alone."""


def cases(options: Options) -> Sequence[Case]:
    tasks = options.sized(2000, 2000)
    pipelines = (options.pipeline,) if options.pipeline else PIPELINES
    return [
        Case(
            f"{pipeline} {nodes}", nodes, pipeline, nodes=nodes, slots=SLOTS.get(pipeline, 8),
            scheduler=options.scheduler or "load_aware_spread", loads=(Load(pipeline, pipeline, tasks),),
        )
        for pipeline in pipelines
        for nodes in options.nodes or NODES
    ]  # fmt: skip


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    derived: dict[str, Figures] = {}
    for case in cases:
        first = next(each for each in cases if each.series == case.series)
        speed_up = figures[case.name]["throughput_per_s"] / figures[first.name]["throughput_per_s"]
        derived[case.name] = {
            "speed_up": speed_up,
            "efficiency": speed_up * first.nodes / case.nodes,
            **of_ideal(figures[case.name]),
        }
    return derived


PUBLISHED = {
    **dict(zip((f"compute {n}" for n in (1, 2, 4, 8, 16)), (38.1, 55.0, 57.2, 38.9, 19.4), strict=True)),
    **dict(zip((f"rag {n}" for n in (1, 2, 4, 8, 16)), (1.55, 3.03, 5.84, 11.41, 17.60), strict=True)),
    **dict(zip((f"mixed {n}" for n in (1, 2, 4, 8, 16)), (1.64, 3.16, 4.71, 4.51, 10.04), strict=True)),
}

SCALING = Experiment(
    "scaling",
    "Node scaling",
    "Table 1: throughput, latency and efficiency by number of nodes",
    cases,
    (THROUGHPUT, MEAN, P50, P95, P99, SPEED_UP, EFFICIENCY, OF_IDEAL, BALANCE),
    (
        Plot(
            "throughput", "Throughput by number of nodes", "nodes", "records/s", (THROUGHPUT,), log_x=True, ideal=True
        ),
        Plot("efficiency", "Efficiency by number of nodes", "nodes", "efficiency (%)", (EFFICIENCY,), log_x=True),
        Plot("p99", "99th percentile of latency", "nodes", "p99 latency (ms)", (P99,), log_x=True),
    ),
    derive=derive,
    published={name: {"throughput_per_s": value} for name, value in PUBLISHED.items()},
    source="SAGE, published (16 nodes of 8 cores, A100, Ray 2.9)",
)
