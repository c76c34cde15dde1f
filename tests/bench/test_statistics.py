"""What is said of repeats and of arrivals, against distributions of which the truth is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice, pairwise
from math import exp, sqrt

import pytest

from sage.bench import Case, Load, Run
from sage.bench.figures import WARM_UP, figures_of
from sage.bench.statistics import SIGNIFICANT, estimate, p_value, percentile
from sage.simulation import Poisson, Rows

Draw = Callable[[random.Random], float]
EXPONENTIAL_MEDIAN = 0.6931471805599453


@pytest.mark.parametrize(
    ("draw", "true_median"),
    [(lambda chance: chance.gauss(5, 2), 5.0), (lambda chance: chance.expovariate(1.0), EXPONENTIAL_MEDIAN)],
    ids=["normal", "exponential"],
)
def test_the_interval_holds_the_true_median_about_as_often_as_it_says(draw: Draw, true_median: float) -> None:
    chance = random.Random(11)
    found = [estimate([draw(chance) for _ in range(9)], seed) for seed in range(80)]
    held = sum(each.low <= true_median <= each.high for each in found if each.low is not None and each.high is not None)
    assert 0.88 <= held / len(found) <= 1.0


@pytest.mark.parametrize(
    "draw", [lambda chance: chance.gauss(5, 2), lambda chance: chance.expovariate(1.0)], ids=["normal", "exponential"]
)
def test_chance_is_called_a_difference_no_more_often_than_it_says(draw: Draw) -> None:
    chance = random.Random(12)
    found = [p_value([draw(chance) for _ in range(5)], [draw(chance) for _ in range(5)]) for _ in range(300)]
    assert sum(p is not None and p < SIGNIFICANT for p in found) / len(found) <= SIGNIFICANT + 0.025  # two errors


def test_a_difference_that_is_there_is_found() -> None:
    chance = random.Random(13)
    found = [p_value([chance.gauss(0, 1) for _ in range(5)], [chance.gauss(4, 1) for _ in range(5)]) for _ in range(60)]
    assert sum(p is not None and p < SIGNIFICANT for p in found) / len(found) >= 0.95


def test_percentiles_of_an_exponential() -> None:
    chance = random.Random(14)
    ordered = sorted(chance.expovariate(1.0) for _ in range(40_000))
    assert percentile(ordered, 0.5) == pytest.approx(EXPONENTIAL_MEDIAN, rel=0.03)
    assert percentile(ordered, 0.99) == pytest.approx(4.605, rel=0.05)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    """Their gaps are exponential (Kolmogorov and Smirnov, one in a hundred), and one says nothing of the next."""
    times = list(islice(Poisson(50.0).times(random.Random(15)), 5_001))
    gaps = [after - before for before, after in pairwise(times)]
    count = len(gaps)
    expected = [1 - exp(-50.0 * gap) for gap in sorted(gaps)]
    apart = max(max(p - n / count, (n + 1) / count - p) for n, p in enumerate(expected))
    assert apart < 1.63 / sqrt(count)
    mean = sum(gaps) / count
    together = sum((one - mean) * (next_one - mean) for one, next_one in pairwise(gaps))
    assert abs(together / sum((gap - mean) ** 2 for gap in gaps)) < 3 / sqrt(count)


def test_what_is_slow_in_the_warm_up_is_in_no_figure() -> None:
    """A hundred seconds: the first ten with latencies of up to 9 s at 2 a second, then 1 s at 10 a second."""
    rows = Rows(["job"])
    ends = [*(n / 2 for n in range(1, 21)), *(10 + n / 10 for n in range(1, 901))]
    for index, end_s in enumerate(ends):
        latency_s = min(9.0, end_s) if end_s <= WARM_UP * ends[-1] else 1.0
        rows.index.append(index)
        rows.job_index.append(0)
        rows.node.append(0)
        rows.intended_s.append(end_s - latency_s)
        rows.ended_s.append(end_s)
        rows.scheduling_s.append(0.0)
        rows.queueing_s.append(0.0)
        rows.execution_s.append(latency_s)
    figures = figures_of(Case("warm", 1, loads=(Load("job", "compute", len(ends)),)), Run(rows))
    assert figures["throughput_per_s"] == pytest.approx(10.0, rel=0.01)
    assert (figures["p99_s"], figures["mean_s"]) == (pytest.approx(1.0), pytest.approx(1.0, rel=0.02))
