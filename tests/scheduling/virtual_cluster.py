"""Work for a scheduler in virtual time: arrivals on replicas that hear of everything at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from sage.scheduling import Scheduler
from sage.simulation import ClusterModel, Demand, JobModel, NetworkModel, NodeModel, Phase, Replay, balance_of
from sage.simulation import simulate as run

AT_ONCE = NetworkModel(0.0, inf)


@dataclass(frozen=True)
class Arrival:
    at_s: float
    cost_s: float
    band: int = 0
    job: str = ""
    weight: float = 1.0
    """What the scheduler is told of it: its estimate is learned for each unit of this."""


@dataclass
class Outcome:
    makespan_s: float
    latencies_s: dict[int, float]
    """By arrival."""
    given: Sequence[int]
    """By replica."""
    arrivals: Sequence[Arrival]

    def p99_s(self, band: int | None = None) -> float:
        chosen = sorted(s for i, s in self.latencies_s.items() if band is None or self.arrivals[i].band == band)
        return chosen[min(len(chosen) - 1, int(len(chosen) * 0.99))]

    @property
    def balance(self) -> float:
        return balance_of(tuple(self.given))


def simulate(scheduler: Scheduler, replicas: Sequence[tuple[int, float]], arrivals: Sequence[Arrival]) -> Outcome:
    """Run all `arrivals` on `replicas` (slots, true speed). Costs and speeds are learned, not told."""
    cluster = ClusterModel(tuple(NodeModel(slots, speed) for slots, speed in replicas), AT_ONCE)
    members: dict[str, list[int]] = {}
    for index, arrival in enumerate(arrivals):
        members.setdefault(arrival.job, []).append(index)
    jobs = [_job(name, [arrivals[index] for index in indices]) for name, indices in members.items()]
    outcome = run(cluster, scheduler, jobs)
    names = list(members)
    latencies_s = {
        members[names[job]][index]: latency_s
        for job, index, latency_s in zip(outcome.rows.job_index, outcome.rows.index, outcome.latencies_s, strict=True)
    }
    return Outcome(outcome.ended_s, latencies_s, list(outcome.given), arrivals)


def _job(name: str, arrivals: Sequence[Arrival]) -> JobModel:
    rows = [(each.at_s, Demand((Phase(each.cost_s),), each.weight, each.band)) for each in arrivals]
    return JobModel(name, None, len(rows), Replay(rows))
