"""What there is for all jobs, divided among them by weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf


def divided(total: int, weights: Mapping[str, float], most: Mapping[str, int]) -> dict[str, int]:
    """The part of each job: by weight, and no more than the `most` that it can use, of which what is left goes to the
    others. At least 1."""
    found: dict[str, int] = {}
    left, weight = total, sum(weights.values())
    for job in sorted(weights, key=lambda job: most.get(job, inf) / weights[job]):
        share = max(1, min(round(left * weights[job] / weight), most.get(job, left)))
        found[job] = share
        left, weight = max(0, left - share), weight - weights[job]
    return found
