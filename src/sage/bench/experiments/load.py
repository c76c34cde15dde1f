"""Four levels of load."""

from __future__ import annotations

from collections.abc import Sequence

from sage.bench.case import Case, Load
from sage.bench.experiment import BALANCE, MEAN, P50, P95, P99, THROUGHPUT, Experiment, Plot
from sage.bench.options import Options

LEVELS = (("low", 100, 2, 4), ("medium", 200, 4, 16), ("high", 500, 8, 64), ("extreme", 1000, 16, 128))
"""Tasks, nodes, and records on their way at once."""


def cases(options: Options) -> Sequence[Case]:
    pipeline = options.pipeline or "rag"
    return [
        Case(
            name, index, pipeline, nodes=nodes, slots=max(1, parallel // nodes),
            scheduler=options.scheduler or "adaptive",
            loads=(Load(pipeline, pipeline, options.tasks or tasks, in_flight=parallel),),
        )
        for index, (name, tasks, nodes, parallel) in enumerate(LEVELS)
    ]  # fmt: skip


LOAD = Experiment(
    "load",
    "Levels of load",
    "Table 2: four levels of load",
    cases,
    (THROUGHPUT, MEAN, P50, P95, P99, BALANCE),
    (
        Plot("throughput", "Throughput by level of load", "level", "records/s", (THROUGHPUT,), "bars"),
        Plot("latency", "Latency by level of load", "level", "latency (ms)", (P50, P99), "bars"),
    ),
)
