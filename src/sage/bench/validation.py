"""Is virtual time true? The same cases on a real cluster and in virtual time, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from sage.bench.case import Case, Load
from sage.bench.executor import Executor
from sage.bench.figures import figures_of
from sage.bench.virtual import VirtualCluster

NODES = (1, 4, 8, 16)
SLOTS = 1
"""Of each of several nodes: hosts with more workers let results gather for some milliseconds, virtual time does not."""
ALONE = 2
"""Of a single node: a process alone with one worker has no queue."""
TURNS = 120
"""Records for each slot: three seconds."""
BAR = 0.1
"""How far virtual time may be off."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One figure of one case, in the median of the repeats."""

    nodes: int
    figure: str
    measured: float
    simulated: float

    @property
    def difference(self) -> float:
        """Of virtual time, as a part of what was measured."""
        return self.simulated / self.measured - 1

    @property
    def holds(self) -> bool:
        return abs(self.difference) <= BAR


def validate(
    executor: Executor, nodes: Sequence[int] = NODES, *, turns: int = TURNS, repeats: int = 3, seed: int = 0
) -> Iterator[Agreement]:
    """Throughput and p99 for each number of nodes, as soon as they are known. All cases are checked before any runs."""
    cases = [_case(count, turns) for count in nodes]
    for case in cases:
        executor.check(case)
    virtual = VirtualCluster()
    for case in cases:
        measured, simulated = ([_figures(case, each, seed + n) for n in range(repeats)] for each in (executor, virtual))
        for figure in ("throughput_per_s", "p99_s"):
            ours, theirs = (median(found[figure] for found in each) for each in (measured, simulated))
            yield Agreement(case.nodes, figure, ours, theirs)


def _case(nodes: int, turns: int) -> Case:
    slots = SLOTS if nodes > 1 else ALONE
    loads = (Load("compute", "compute", turns * nodes * slots),)
    return Case(f"compute {nodes}", nodes, nodes=nodes, slots=slots, loads=loads)


def _figures(case: Case, executor: Executor, seed: int) -> dict[str, float]:
    return figures_of(case, executor.run(case, seed))
