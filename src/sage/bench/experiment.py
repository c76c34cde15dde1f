"""What an experiment is, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sage.bench.case import Case
from sage.bench.executor import Executor, Run
from sage.bench.figures import figures_of
from sage.bench.options import Options

Figures = dict[str, float]
Medians = Mapping[str, Mapping[str, float]]
"""Of each case, by its name."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure as a table shows it."""

    figure: str
    title: str
    """With the unit."""
    factor: float = 1.0
    digits: int = 1
    better: Literal["higher", "lower", ""] = ""


def _x(case: Case) -> float:
    return case.x


def _series(case: Case) -> str | None:
    return case.series


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of figures over the cases' `x`, a line for each series."""

    name: str
    title: str
    x_label: str
    y_label: str
    columns: tuple[Column, ...]
    """Several: bars on top of one another, or lines with the names of the columns."""
    kind: Literal["lines", "bars", "stacked"] = "lines"
    log_x: bool = False
    x: Callable[[Case], float] = _x
    line: Callable[[Case], str | None] = _series
    """Which line, or colour of bars, a case belongs to; None: it is not drawn."""
    points: bool = True
    """Draw lines of one case too."""
    ideal: bool = False
    """Draw what n times the first case would be."""


def _run(case: Case, executor: Executor, seed: int) -> tuple[Figures, Run | None]:
    run = executor.run(case, seed)
    return figures_of(case, run), run


Measure = Callable[[Case, Executor, int], tuple[Figures, Run | None]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A declaration: which cases, which figures in which order, what is derived from several cases."""

    name: str
    title: str
    table: str
    """The caption of its table."""
    cases: Callable[[Options], Sequence[Case]]
    columns: tuple[Column, ...]
    plots: tuple[Plot, ...]
    measure: Measure = _run
    derive: Callable[[Sequence[Case], Medians], Mapping[str, Figures]] | None = None
    """Figures of a case that others are needed for, from the same repeat."""
    published: Mapping[str, Figures] = field(default_factory=dict)
    """Figures of others, by the name of the case."""
    source: str = ""
    """Whose these are."""
    on_clusters: bool = True
    """False: it measures this machine, wherever the others run."""
    computes: bool = False
    """Records compute, and ask no endpoint: nothing of it is simulated, so it cannot run in virtual time."""

    @property
    def is_about_records(self) -> bool:
        """Its figures are made from the rows of a run, without the warm-up; others say themselves what they are."""
        return self.measure is _run


THROUGHPUT = Column("throughput_per_s", "records/s", digits=1, better="higher")
MEAN = Column("mean_s", "mean (ms)", 1e3, 1, "lower")
P50 = Column("p50_s", "p50 (ms)", 1e3, 1, "lower")
P95 = Column("p95_s", "p95 (ms)", 1e3, 1, "lower")
P99 = Column("p99_s", "p99 (ms)", 1e3, 1, "lower")
BALANCE = Column("balance", "balance", digits=3, better="higher")
TOTAL = Column("total_s", "total (s)", digits=2, better="lower")
OF_IDEAL = Column("of_ideal", "of the ideal (%)", 100, 1, "higher")
"""Beside the same load on one machine with all the slots, no network and nothing to decide."""
DECISION = Column("decision_us", "decision (us)", digits=1, better="lower")
PARTS = (
    Column("scheduling_s", "scheduling (ms)", 1e3, 2),
    Column("queueing_s", "queueing (ms)", 1e3, 1),
    Column("execution_s", "execution (ms)", 1e3, 1),
)


def of_ideal(figures: Mapping[str, float]) -> Figures:
    """The figure of `OF_IDEAL`, where the ideal is known."""
    ideal_per_s = figures.get("ideal_per_s")
    return {} if ideal_per_s is None else {"of_ideal": figures["throughput_per_s"] / ideal_per_s}
