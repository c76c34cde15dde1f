"""Runs an experiment: every case, every repeat, in turns, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

from sage.bench.case import Case
from sage.bench.environment import environment
from sage.bench.executor import Executor
from sage.bench.experiment import Experiment, Figures
from sage.bench.options import Options
from sage.bench.results import SCHEMA, Results
from sage.bench.statistics import Estimate, estimate

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """An experiment that has been measured, as every text, table and picture shows it."""

    experiment: Experiment
    cases: Sequence[Case]
    figures: Mapping[str, Mapping[str, Estimate]]
    """By case and name."""
    label: str
    options: Options
    environment: Mapping[str, Any]
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics.json; docs/experiments.md describes it."""
        return {
            "schema": SCHEMA,
            "experiment": self.experiment.name,
            "cluster": self.label,
            "options": self.options.to_dict(),
            "seeds": seeds_of(self.options),
            "environment": dict(self.environment),
            "elapsed_s": round(self.elapsed_s, 3),
            "lost_records": 0,
            "cases": [self._case(case) for case in self.cases],
        }

    def _case(self, case: Case) -> dict[str, Any]:
        figures = {
            name: {"median": each.median, "low": each.low, "high": each.high, "values": list(each.values)}
            for name, each in self.figures[case.name].items()
        }
        return {"name": case.name, "settings": case.to_dict(), "figures": figures}


def seeds_of(options: Options) -> list[int]:
    """One for each repeat."""
    return [options.seed + repeat for repeat in range(options.repeats)]


def run_experiment(
    experiment: Experiment,
    executor: Executor,
    options: Options,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress = lambda line: None,
) -> Report:
    """Measure `experiment`, keeping each run under `folder` as soon as it has ended.

    Repeats take turns (every case once, then again), so that what disturbs the machine disturbs all cases. Raises what
    the cases do; runs that had ended are kept, and `resume` goes on after them.
    """
    began = monotonic()
    surroundings = environment()
    cases = experiment.cases(options)
    if experiment.on_clusters:
        for case in cases:
            if case.nodes:
                executor.check(case)
    results = Results(folder / experiment.name)
    results.begin(options, cases, resume=resume)
    label = _label(experiment, executor)
    repeats = []
    for repeat, seed in enumerate(seeds_of(options)):
        turn = _Turn(experiment, executor, results, repeat, seed)
        repeats.append(turn.run(cases, progress))
        left_s = (monotonic() - began) / (repeat + 1) * (options.repeats - repeat - 1)
        progress(f"{experiment.name}: repeat {repeat + 1} of {options.repeats} done, about {left_s:.0f} s left")
    return Report(experiment, cases, _estimates(repeats), label, options, surroundings, monotonic() - began)


def _label(experiment: Experiment, executor: Executor) -> str:
    if not experiment.on_clusters:
        return "this machine"
    return executor.where if experiment.computes else executor.label


@dataclass(frozen=True, slots=True)
class _Turn:
    """One repeat."""

    experiment: Experiment
    executor: Executor
    results: Results
    repeat: int
    seed: int

    def run(self, cases: Sequence[Case], progress: Progress) -> dict[str, Figures]:
        """Every case once."""
        figures = {case.name: self._measured(case, progress) for case in cases}
        if self.experiment.derive is not None:
            for name, derived in self.experiment.derive(cases, figures).items():
                figures[name] = {**figures[name], **derived}
        return figures

    def _measured(self, case: Case, progress: Progress) -> Figures:
        known = self.results.finished(case, self.repeat)
        if known is not None:
            return known
        progress(f"{self.experiment.name}: {case.name}, seed {self.seed}")
        figures, run = self.experiment.measure(case, self.executor, self.seed)
        self.results.keep(case, self.repeat, figures, run)
        return figures


def _estimates(repeats: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, Estimate]]:
    return {case: _estimates_of([repeat[case] for repeat in repeats]) for case in repeats[0]}


def _estimates_of(repeats: Sequence[Figures]) -> dict[str, Estimate]:
    """Each over the repeats that have it."""
    names = dict.fromkeys(chain.from_iterable(repeats))
    return {name: estimate([figures[name] for figures in repeats if name in figures]) for name in names}
