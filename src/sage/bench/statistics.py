"""Medians, their confidence, and whether two sets of repeats differ.

By hand and not by scipy: three short functions over a handful of repeats do not need 100 MB of packages, and what is
exact for so few repeats (all their permutations) is simpler than what is approximate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from statistics import median

RESAMPLES = 2_000
CONFIDENCE = 0.95
MOST_PERMUTATIONS = 20_000
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over repeats, and the bootstrap interval in which it lies with 95% confidence.

    With one repeat there is no interval: `low` and `high` are None.
    """

    median: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Of at least one value; percentile bootstrap, the same for the same values."""
    middle = float(median(values))
    if len(values) < 2:
        return Estimate(middle, None, None, tuple(values))
    chance = random.Random(seed)
    medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    low, high = medians[int(tail * RESAMPLES)], medians[int((1 - tail) * RESAMPLES) - 1]
    return Estimate(middle, float(low), float(high), tuple(values))


def p_value(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided permutation test of the difference of means: how often chance alone would part them so far.

    Exact where there are at most 20,000 ways to divide the values, else by that many drawn at random. None where even
    the clearest difference could not be significant: fewer than four repeats on each side.
    """
    count = len(ours) + len(theirs)
    ways = comb(count, len(ours)) if ours and theirs else 0
    if ways == 0 or 2 / ways > SIGNIFICANT:
        return None
    values = [*ours, *theirs]
    total, size = sum(values), len(ours)

    def apart(part: float) -> float:
        return abs(part / size - (total - part) / (count - size))

    seen = apart(sum(ours)) * (1 - 1e-12)
    if ways <= MOST_PERMUTATIONS:
        return sum(apart(sum(chosen)) >= seen for chosen in combinations(values, size)) / ways
    chance = random.Random(seed)
    as_far = sum(apart(sum(chance.sample(values, size))) >= seen for _ in range(MOST_PERMUTATIONS))
    return (as_far + 1) / (MOST_PERMUTATIONS + 1)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of at least one value in order: the smallest that at least `share` of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
