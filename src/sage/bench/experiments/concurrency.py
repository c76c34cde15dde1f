"""More records in flight on the same four nodes: too few, enough, too many, and found by feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage.bench.case import Case, Load
from sage.bench.experiment import MEAN, P50, P99, PARTS, THROUGHPUT, Column, Experiment, Figures, Medians, Plot
from sage.bench.options import Options

LEVELS = (1, 4, 8, 16, 32, 64)
CORES = 8
OF_PEAK = Column("of_peak", "of peak (%)", 100, 1, "higher")


def cases(options: Options) -> Sequence[Case]:
    nodes = (options.nodes or (4,))[0]
    pipeline, tasks = options.pipeline or "compute", options.sized(2000, 2000)
    scheduler = options.scheduler or "adaptive"
    fixed = [
        Case(
            f"{level}", level, pipeline, nodes=nodes, slots=level, cores=CORES, scheduler=scheduler,
            loads=(Load(pipeline, pipeline, tasks, in_flight=nodes * level),),
        )
        for level in LEVELS
    ]  # fmt: skip
    found = Case(
        "adaptive", 2 * LEVELS[-1], pipeline, nodes=nodes, slots=LEVELS[-1], cores=CORES, scheduler=scheduler,
        loads=(Load(pipeline, pipeline, tasks),), adaptive=True,
    )  # fmt: skip
    return [*fixed, found]


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    peak = max(each["throughput_per_s"] for each in figures.values())
    return {name: {"of_peak": each["throughput_per_s"] / peak} for name, each in figures.items()}


def _line(case: Case) -> str:
    return "found by feedback" if case.adaptive else "given"


PUBLISHED = {
    "1": (12.1, 0.093), "4": (38.0, 0.180), "8": (40.3, 0.415), "16": (19.2, 1.245), "32": (8.9, 7.276),
}  # fmt: skip

CONCURRENCY = Experiment(
    "concurrency",
    "Concurrency",
    "Tables 4 and 5: throughput by records in flight, and where their time went",
    cases,
    (THROUGHPUT, OF_PEAK, MEAN, P50, P99, *PARTS),
    (
        Plot(
            "throughput",
            "Throughput by records in flight",
            "in flight on each node",
            "records/s",
            (THROUGHPUT,),
            log_x=True,
            line=_line,
        ),
        Plot(
            "parts", "Where the time of a record went", "in flight on each node", "mean latency (ms)", PARTS, "stacked"
        ),
    ),
    derive=derive,
    published={name: {"throughput_per_s": rate, "p99_s": p99} for name, (rate, p99) in PUBLISHED.items()},
    source="SAGE, published, compute",
)
