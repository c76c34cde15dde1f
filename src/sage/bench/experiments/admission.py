"""Three equal jobs before one endpoint: at once, one after another, and let in by SAGE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage.bench.case import Admission, Case, Load
from sage.bench.experiment import MEAN, P99, THROUGHPUT, TOTAL, Column, Experiment, Figures, Medians, Plot
from sage.bench.options import Options

DELAYS_S = (0.0, 1.0, 2.0, 5.0)
IN_FLIGHT = 128
"""Records that each job would have on their way."""
ROOMS = (96, 135, 192)
"""In flight in all, as `sage jobmanager start --in-flight` sets it: what the endpoint does a second, times the latency
that is wanted (Little's law)."""
LOWER = Column("p99_lower", "p99 lower by (%)", 100, 1, "higher")
LOST = Column("throughput_lost", "throughput lost (%)", 100, 1, "lower")
AT_ONCE = "start delay 0 s"


def cases(options: Options) -> Sequence[Case]:
    tasks, nodes = options.sized(1000, 300), (options.nodes or (16,))[0]
    pipeline, scheduler = options.pipeline or "rag", options.scheduler or "adaptive"

    def jobs(delay_s: float) -> tuple[Load, ...]:
        return tuple(Load(f"job{n}", pipeline, tasks, n * delay_s, in_flight=IN_FLIGHT) for n in range(3))

    def case(name: str, x: int, delay_s: float, admission: Admission, room: int | None = None) -> Case:
        return Case(
            name, x, "", nodes=nodes, slots=24, scheduler=scheduler, loads=jobs(delay_s), admission=admission, room=room
        )

    delayed = [case(f"start delay {delay:g} s", x, delay, "none") for x, delay in enumerate(DELAYS_S)]
    given = [case(f"{room} in flight", 6 + x, 0.0, "jobs", room) for x, room in enumerate(ROOMS)]
    return [*delayed, case("endpoint limit", 4, 0.0, "limited"), case("admission", 5, 0.0, "jobs"), *given]


def derive(cases: Sequence[Case], figures: Medians) -> Mapping[str, Figures]:
    flood = figures[AT_ONCE]
    return {
        case.name: {
            "p99_lower": 1 - figures[case.name]["p99_s"] / flood["p99_s"],
            "throughput_lost": 1 - figures[case.name]["throughput_per_s"] / flood["throughput_per_s"],
        }
        for case in cases
        if case.name != AT_ONCE
    }


ADMISSION = Experiment(
    "admission",
    "Admission",
    "Table 7: three equal jobs, started at once, one after another, and let in by SAGE",
    cases,
    (THROUGHPUT, MEAN, P99, TOTAL, LOWER, LOST),
    (
        Plot("p99", "99th percentile of latency", "how they start", "p99 latency (ms)", (P99,), "bars"),
        Plot("throughput", "Throughput", "how they start", "records/s", (THROUGHPUT,), "bars"),
    ),
    derive=derive,
    published={
        f"start delay {delay:g} s": {"throughput_per_s": rate, "p99_s": p99}
        for delay, rate, p99 in ((0, 43.6, 77), (1, 44.3, 73), (2, 39.2, 60), (5, 30.7, 33))
    },
    source="SAGE, published",
)
