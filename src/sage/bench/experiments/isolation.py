"""Several jobs at once: what each gets, and what they take of one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage.bench.case import Case, Load
from sage.bench.experiment import OF_IDEAL, P99, THROUGHPUT, TOTAL, Column, Experiment, Figures, Medians, Plot, of_ideal
from sage.bench.options import Options

KINDS = ("rag", "compute", "llm")
JOBS = (1, 2, 4, 8)
DELAY_S = 2.0
IN_FLIGHT = 2
"""Of each equal job: so many that one job leaves most of the endpoint to others."""
RELATIVE = Column("of_sequential", "of sequential time", digits=2, better="lower")
EFFICIENCY = Column("efficiency", "efficiency (%)", 100, 1, "higher")
DIFFERENCE = Column("difference", "slowest below quickest (%)", 100, 1, "lower")


def cases(options: Options) -> Sequence[Case]:
    tasks = options.sized(1000, 300)
    nodes = (options.nodes or (16,))[0]
    scheduler = options.scheduler or "adaptive"
    alone = [
        Case(
            f"{kind} alone",
            index,
            "alone",
            nodes=nodes,
            scheduler=scheduler,
            loads=(Load(kind, kind, tasks, in_flight=16),),
        )
        for index, kind in enumerate(KINDS)
    ]
    loads = tuple(Load(kind, kind, tasks, index * DELAY_S, in_flight=16) for index, kind in enumerate(KINDS))
    together = Case("side by side", len(KINDS), "together", nodes=nodes, scheduler=scheduler, loads=loads)
    equal = [
        Case(
            f"{jobs} jobs", jobs, "equal jobs", nodes=nodes, scheduler=scheduler,
            loads=tuple(Load(f"job{n}", options.pipeline or "rag", tasks, in_flight=IN_FLIGHT) for n in range(jobs)),
        )
        for jobs in JOBS
    ]  # fmt: skip
    return [*alone, together, *equal]


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    sequential_s = sum(figures[f"{kind} alone"]["total_s"] for kind in KINDS)
    derived: dict[str, Figures] = {"side by side": {"of_sequential": figures["side by side"]["total_s"] / sequential_s}}
    one = figures["1 jobs"]["throughput_per_s"]
    for jobs in JOBS:
        own = figures[f"{jobs} jobs"]
        derived[f"{jobs} jobs"] = {
            "efficiency": own["throughput_per_s"] / (jobs * one),
            **of_ideal(own),
        }
    return derived


ISOLATION = Experiment(
    "isolation",
    "Parallel jobs",
    "Table 6: three different pipelines side by side, and equal jobs",
    cases,
    (THROUGHPUT, P99, TOTAL, RELATIVE, EFFICIENCY, OF_IDEAL, DIFFERENCE),
    (
        Plot("total", "Throughput of all jobs together", "case", "records/s", (THROUGHPUT,), "bars"),
        Plot("p99", "99th percentile of latency", "case", "p99 latency (ms)", (P99,), "bars"),
    ),
    derive=derive,
    published={
        name: {"throughput_per_s": rate, "efficiency": efficiency}
        for name, rate, efficiency in (
            ("1 jobs", 12.7, 1.0),
            ("2 jobs", 24, 0.94),
            ("4 jobs", 44, 0.87),
            ("8 jobs", 72, 0.71),
        )
    },
    source="SAGE, published",
)
