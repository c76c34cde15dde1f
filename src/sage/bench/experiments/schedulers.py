"""Every scheduler on the same records."""

from __future__ import annotations

from collections.abc import Sequence

from sage.bench.case import Case, Load
from sage.bench.experiment import BALANCE, DECISION, MEAN, P99, PARTS, THROUGHPUT, Experiment, Plot
from sage.bench.options import Options
from sage.scheduling import names

BUSY = 0.85
MIXED_S = 0.038
"""Mean seconds of computing of a mixed record."""


def cases(options: Options) -> Sequence[Case]:
    chosen = [options.scheduler] if options.scheduler else names()
    tasks = options.sized(5000, 1500)
    nodes = (options.nodes or (16,))[0]
    rate_per_s = BUSY * nodes * 8 / MIXED_S
    pipeline = options.pipeline or "mixed"
    medium = [
        Case(
            f"{name} medium", index, "medium load", nodes=4, slots=4, scheduler=name,
            loads=(Load("medium", "rag", options.tasks or 200, in_flight=16),),
        )
        for index, name in enumerate(chosen)
    ]  # fmt: skip
    many = [
        Case(
            f"{name} {nodes} nodes", index, f"{nodes} nodes, mixed", nodes=nodes, scheduler=name,
            loads=(Load("many", pipeline, tasks, rate_per_s=rate_per_s if pipeline == "mixed" else None),),
        )
        for index, name in enumerate(chosen)
    ]  # fmt: skip
    return [*medium, *many]


PUBLISHED = {
    "fifo": (18.5, 2.5, 7.0, 0.52),
    "round_robin": (17.8, 2.6, 7.2, 0.85),
    "load_aware_spread": (16.4, 2.5, 6.5, 0.98),
    "load_aware_pack": (15.9, 2.7, 6.8, 0.75),
    "priority": (19.2, 2.8, 12.0, 0.90),
}

SCHEDULERS = Experiment(
    "schedulers",
    "Schedulers",
    "Table 3: schedulers at medium load, and with mixed records (1:4:20) in a Poisson stream at 85% of 16 nodes",
    cases,
    (THROUGHPUT, MEAN, P99, BALANCE, PARTS[0], DECISION),
    (
        Plot("p99", "99th percentile of latency by scheduler", "scheduler", "p99 latency (ms)", (P99,), "bars"),
        Plot("balance", "Balance by scheduler", "scheduler", "balance (1 - sigma/mu)", (BALANCE,), "bars"),
    ),
    published={
        f"{name} 16 nodes": {"throughput_per_s": rate, "mean_s": mean, "p99_s": p99, "balance": balance}
        for name, (rate, mean, p99, balance) in PUBLISHED.items()
    },
    source="SAGE, published (other records on other machines: compare the order, not the figures)",
)
