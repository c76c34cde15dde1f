"""Several jobs at once: what each gets, and what they take of one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage.bench.case import Case, Load
from sage.bench.experiment import OF_IDEAL, P99, THROUGHPUT, TOTAL, Column, Experiment, Figures, Medians, Plot, of_ideal
from sage.bench.options import Options

KINDS = {"rag": (2, 1), "compute": (1, 11), "llm": (2, 1)}
"""In flight, and how many times the records: so they take equally long alone, and leave room for one another."""
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
            loads=(_load(kind, tasks, 0.0),),
        )
        for index, kind in enumerate(KINDS)
    ]
    loads = tuple(_load(kind, tasks, index * DELAY_S) for index, kind in enumerate(KINDS))
    together = Case("side by side", len(KINDS), "together", nodes=nodes, scheduler=scheduler, loads=loads)
    equal = [
        Case(
            f"{jobs} jobs", jobs, "equal jobs", nodes=nodes, scheduler=scheduler,
            loads=tuple(Load(f"job{n}", options.pipeline or "rag", tasks, in_flight=IN_FLIGHT) for n in range(jobs)),
        )
        for jobs in JOBS
    ]  # fmt: skip
    return [*alone, together, *equal]


def _load(kind: str, tasks: int, start_s: float) -> Load:
    in_flight, times = KINDS[kind]
    return Load(kind, kind, times * tasks, start_s, in_flight=in_flight)


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    sequential_s = sum(figures[f"{kind} alone"]["total_s"] for kind in KINDS)
    together = figures["side by side"]
    derived: dict[str, Figures] = {"side by side": {"of_sequential": together["total_s"] / sequential_s}}
    for kind in KINDS:
        derived[f"{kind} alone"] = {
            f"together_{figure}": together[f"{kind}: {figure}"] for figure in ("throughput_per_s", "p99_s", "total_s")
        }
    one = figures["1 jobs"]["throughput_per_s"]
    for jobs in JOBS:
        own = figures[f"{jobs} jobs"]
        derived[f"{jobs} jobs"] = {
            "efficiency": own["throughput_per_s"] / (jobs * one),
            **of_ideal(own),
        }
    return derived


def _named(column: Column, title: str) -> Column:
    return replace(column, title=title)


def _alone(case: Case) -> str | None:
    return case.series if case.series == "alone" else None


def _equal(case: Case) -> str | None:
    return case.series if case.series == "equal jobs" else None


THROUGHPUT_TOGETHER = replace(THROUGHPUT, figure="together_throughput_per_s", title="side by side (records/s)")
P99_TOGETHER = replace(P99, figure="together_p99_s", title="side by side")
TOTAL_TOGETHER = replace(TOTAL, figure="together_total_s", title="side by side")

ISOLATION = Experiment(
    "isolation",
    "Parallel jobs",
    "Table 6: three different pipelines side by side, and equal jobs",
    cases,
    (
        THROUGHPUT,
        P99,
        TOTAL,
        THROUGHPUT_TOGETHER,
        _named(P99_TOGETHER, "side by side p99 (ms)"),
        _named(TOTAL_TOGETHER, "side by side (s)"),
        RELATIVE,
        EFFICIENCY,
        OF_IDEAL,
        DIFFERENCE,
    ),
    (
        Plot(
            "together-p99",
            "Latency of three pipelines, alone and side by side",
            "pipeline",
            "p99 latency (ms)",
            (_named(P99, "alone"), P99_TOGETHER),
            "bars",
            line=_alone,
        ),
        Plot(
            "together-total",
            "Time of three pipelines, alone and side by side",
            "pipeline",
            "from its start to its end (s)",
            (_named(TOTAL, "alone"), TOTAL_TOGETHER),
            "bars",
            line=_alone,
        ),
        Plot("equal", "Throughput of equal jobs together", "jobs", "records/s", (THROUGHPUT,), line=_equal, ideal=True),
        Plot("equal-p99", "Latency of equal jobs", "jobs", "p99 latency (ms)", (P99,), line=_equal),
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
