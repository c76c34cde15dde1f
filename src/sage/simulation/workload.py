"""What the cluster has to do: records that compute and ask endpoints, and when they come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sage.errors import UsageError


class Phase(NamedTuple):
    """Some computing, and then a call of an endpoint if `output_tokens` is more than 0."""

    compute_s: float
    """On a core of a node of speed 1."""
    prompt_tokens: int = 0
    output_tokens: int = 0


class Demand(NamedTuple):
    """What one record needs. It keeps its slot all the while."""

    phases: tuple[Phase, ...]
    weight: float = 1.0
    """What the scheduler is told of its size; costs are learned for each unit of it."""
    band: int = 0


Draw = Callable[[random.Random], Demand]
"""The next record of a pipeline."""

COMPUTE_S = 0.025
VARIES = 0.1
"""Without it all slots would end at the same moment, again and again: no real work does that."""
LIGHT_S = 0.01
SHARES, FACTORS = (6, 3, 1), (1, 4, 20)
"""Light, medium and heavy records."""


def _compute(chance: random.Random) -> Demand:
    return Demand((Phase(COMPUTE_S * chance.uniform(1 - VARIES, 1 + VARIES)),))


def _mixed(chance: random.Random) -> Demand:
    factor = chance.choices(FACTORS, SHARES)[0]
    return Demand((Phase(LIGHT_S * factor),), float(factor))


def _llm(chance: random.Random) -> Demand:
    return Demand((Phase(0.0, chance.randint(100, 400), chance.randint(60, 140)),))


def _rag(chance: random.Random) -> Demand:
    """Retrieval, a prompt with passages, a short answer."""
    return Demand((Phase(0.01, chance.randint(500, 900), chance.randint(60, 140)),))


def _adaptive_rag(chance: random.Random) -> Demand:
    """A small call says whether nothing, one or two retrievals are needed before the answer."""
    route = Phase(0.001, 60, 4)
    rounds = chance.choices((0, 1, 2), (4, 4, 2))[0]
    retrievals = tuple(Phase(0.01, 700, 40) for _ in range(rounds))
    return Demand((route, *retrievals, Phase(0.0, 200 + 300 * rounds, chance.randint(60, 140))), 1.0 + rounds)


PIPELINES: dict[str, Draw] = {
    "compute": _compute,
    "mixed": _mixed,
    "llm": _llm,
    "rag": _rag,
    "adaptive_rag": _adaptive_rag,
}


def pipeline_named(name: str) -> Draw:
    """Raises `UsageError` (E104) if there is none of that name."""
    draw = PIPELINES.get(name)
    if draw is None:
        raise UsageError("E104", "there is no such pipeline", at="pipeline", got=name, expected=", ".join(PIPELINES))
    return draw


def computing(seconds: float) -> Draw:
    """Records that compute for `seconds`, and do nothing else."""
    demand = Demand((Phase(seconds),))
    return lambda chance: demand


@dataclass(frozen=True, slots=True)
class Closed:
    """So many records are on their way at any time: the next is read when one has ended."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class Poisson:
    """Records come when they come, however many are on their way."""

    per_s: float

    def times(self, chance: random.Random) -> Iterator[float]:
        """When records come, without end."""
        at_s = 0.0
        while True:
            at_s += chance.expovariate(self.per_s)
            yield at_s


@dataclass(frozen=True, slots=True)
class Replay:
    """Records of a trace: seconds from its start, and what each needs."""

    arrivals: Sequence[tuple[float, Demand]]


Arrivals = Closed | Poisson | Replay


@dataclass(frozen=True, slots=True)
class JobModel:
    """One run of a pipeline."""

    name: str
    draw: Draw | None
    """None with `Replay`, which says what each record needs."""
    records: int
    arrivals: Arrivals
    weight: float = 1.0
    band: int = 0
    """Lower goes first, at nodes and at endpoints."""
    start_s: float = 0.0
    admitted: bool = False
    """Its records in flight are limited to its share of what the endpoints take, and a little more."""
    adaptive: bool = False
    """Its records in flight are as many as they end quickest with, found as a step with ``concurrency="adaptive"``
    finds it."""

    def __post_init__(self) -> None:
        count = len(self.arrivals.arrivals) if isinstance(self.arrivals, Replay) else self.records
        rate = self.arrivals.in_flight if isinstance(self.arrivals, Closed) else 1.0
        rate = self.arrivals.per_s if isinstance(self.arrivals, Poisson) else rate
        if isinstance(self.arrivals, Replay) != (self.draw is None):
            raise UsageError("E104", "a trace says itself what its records need", at=f"job {self.name}", got=self.draw)
        if not 1 <= self.records <= count or rate <= 0 or self.weight <= 0:
            got = f"{self.records} of {count} records, arrivals {rate:g}, weight {self.weight:g}"
            raise UsageError("E104", "bad load", at=f"job {self.name}", got=got, expected="all more than 0")
