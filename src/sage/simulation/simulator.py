"""A run of jobs on a cluster, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from sage.errors import UsageError
from sage.scheduling import Scheduler
from sage.scheduling.limiter import AdaptiveLimit, Flight
from sage.scheduling.sharing import divided
from sage.simulation.agenda import Agenda
from sage.simulation.cluster import ClusterModel
from sage.simulation.dispatch import SimulatedDispatcher
from sage.simulation.node import SimulatedNode
from sage.simulation.outcome import Outcome, Rows, check_complete
from sage.simulation.serving import SimulatedPool
from sage.simulation.task import Task
from sage.simulation.workload import Closed, Demand, Draw, JobModel, Poisson, Replay

ADMITTED_AHEAD = 1.25
"""Records that admission lets in, for each request that the endpoints take: the others are on their way to them."""


class _Job:
    """One job: what it still has to read, and how many of its records are on their way."""

    def __init__(self, model: JobModel, index: int, seed: int) -> None:
        self.model = model
        self.index = index
        self.in_flight = 0
        self.read = 0
        self.began_s = model.start_s
        self.limit = AdaptiveLimit(streamed=False) if model.adaptive else None
        self.flights: dict[int, Flight] = {}
        self._chance = random.Random(f"{seed} {model.name} records")
        self.times = self._times(random.Random(f"{seed} {model.name} arrivals"))

    @property
    def is_read(self) -> bool:
        return self.read == self.model.records

    def next_task(self, intended_s: float) -> Task:
        arrivals, draw = self.model.arrivals, self.model.draw
        demand = arrivals.arrivals[self.read][1] if isinstance(arrivals, Replay) else _drawn(draw, self._chance)
        if self.limit is not None:
            self.flights[self.read] = self.limit.begin(intended_s)
        if self.model.band:
            demand = demand._replace(band=self.model.band)
        self.read += 1
        self.in_flight += 1
        return Task(self.read - 1, self.model.name, self.index, demand, intended_s)

    def end(self, task: Task) -> None:
        """One of its records is over."""
        self.in_flight -= 1
        if self.limit is not None:
            flight = self.flights.pop(task.index)
            self.limit.progress(flight, task.ended_s, 1.0)
            self.limit.end(flight, task.ended_s)

    def _times(self, chance: random.Random) -> Iterator[float]:
        arrivals = self.model.arrivals
        if isinstance(arrivals, Poisson):
            return islice((self.model.start_s + at_s for at_s in arrivals.times(chance)), self.model.records)
        if isinstance(arrivals, Replay):
            return (self.model.start_s + at_s for at_s, _ in arrivals.arrivals[: self.model.records])
        return iter(())


class _Run:
    def __init__(self, cluster: ClusterModel, scheduler: Scheduler, jobs: Sequence[JobModel], seed: int) -> None:
        self.cluster = cluster
        self.agenda = Agenda()
        self.rows = Rows([job.name for job in jobs])
        self.jobs = [_Job(job, index, seed) for index, job in enumerate(jobs)]
        weights = {job.name: job.weight for job in jobs}
        self.pool = SimulatedPool(
            cluster.endpoints, self.agenda, self._answered, weights, limited=cluster.limited, seed=seed
        )
        self.nodes = [SimulatedNode(node, self.agenda, self._call, self._ended) for node in cluster.nodes]
        slots = [node.slots for node in cluster.nodes]
        self.dispatcher = SimulatedDispatcher(scheduler, slots, self.agenda, self._give, weights)
        self.transit_s = cluster.network.transit_s()
        self.occupied_s = 0.0

    def run(self) -> Outcome:
        for job in self.jobs:
            self.agenda.at(job.model.start_s, self._begin, job)
        self.agenda.run(self._settle)
        check_complete(self.rows, sum(job.model.records for job in self.jobs))
        last_s = max(self.rows.ended_s)
        return Outcome(
            self.rows,
            tuple(self.dispatcher.given),
            self.occupied_s / (last_s * self.cluster.slots),
            tuple(server.busy_s / last_s for server in self.pool.servers),
            self.pool.output_tokens,
            self.dispatcher.decisions,
            self.agenda.passed,
            last_s,
        )

    def _settle(self) -> None:
        self.pool.settle()
        for job in self.jobs:
            if job.model.admitted and not job.is_read and self.agenda.now >= job.began_s:
                self._read(job)
        self.dispatcher.settle()

    def _begin(self, job: _Job) -> None:
        if isinstance(job.model.arrivals, Closed):
            self._read(job)
        else:
            self._await_next(job)

    def _await_next(self, job: _Job) -> None:
        at_s = next(job.times, None)
        if at_s is not None:
            self.agenda.at(at_s, self._came, job)

    def _came(self, job: _Job) -> None:
        self.dispatcher.arrive(job.next_task(self.agenda.now))
        self._await_next(job)

    def _read(self, job: _Job) -> None:
        """As much as may be in flight."""
        assert isinstance(job.model.arrivals, Closed)
        if job.is_read:
            return
        most = job.model.arrivals.in_flight
        if job.limit is not None:
            most = min(most, job.limit.limit)
            limits = [other.limit.limit for other in self.jobs if other.limit is not None]
            if len(limits) == len(self.jobs):
                self.dispatcher.share(sum(limits))
        if job.model.admitted:
            most = min(most, self._share(job))
        while job.in_flight < most and not job.is_read:
            self.dispatcher.arrive(job.next_task(self.agenda.now))

    def _share(self, job: _Job) -> int:
        """Records of it that may be in flight: its part of what is there for those who are at it."""
        weights = {each.model.name: each.model.weight for each in self.jobs if self._is_at_it(each)}
        total = self.cluster.in_flight or round(ADMITTED_AHEAD * self.pool.limit)
        return divided(total, weights, {})[job.model.name]

    def _is_at_it(self, job: _Job) -> bool:
        return job.in_flight > 0 or (not job.is_read and self.agenda.now >= job.began_s)

    def _give(self, task: Task) -> None:
        self.agenda.at(self.agenda.now + self.transit_s, self.nodes[task.node].receive, task)

    def _call(self, task: Task) -> None:
        task.scheduling_s += self.transit_s
        self.agenda.at(self.agenda.now + self.transit_s, self._asked, task)

    def _asked(self, task: Task) -> None:
        task.since_s = self.agenda.now
        self.pool.call(task)

    def _answered(self, task: Task) -> None:
        task.scheduling_s += self.transit_s
        self.agenda.at(self.agenda.now + self.transit_s, self._back, task)

    def _back(self, task: Task) -> None:
        task.since_s = self.agenda.now
        self.nodes[task.node].called(task)

    def _ended(self, task: Task) -> None:
        self.occupied_s += self.agenda.now - task.placed_s
        self.agenda.at(self.agenda.now + self.transit_s, self._told, task)

    def _told(self, task: Task) -> None:
        """The dispatcher has heard of it: now it is over."""
        now = self.agenda.now
        task.scheduling_s += self.transit_s
        task.ended_s = now
        self.rows.add(task)
        self.dispatcher.done(task, now - self.transit_s - task.placed_s)
        job = self.jobs[task.job_index]
        job.end(task)
        if isinstance(job.model.arrivals, Closed):
            self._read(job)


def simulate(cluster: ClusterModel, scheduler: Scheduler, jobs: Sequence[JobModel], *, seed: int = 0) -> Outcome:
    """Run all of `jobs` on `cluster`, to the end. The same arguments give the same outcome.

    Raises `UsageError` E104 for what cannot be run, and `InternalError` E902 if a record was lost.
    """
    if not jobs:
        raise UsageError("E104", "there is no job", at="jobs", expected="at least one")
    if len({job.name for job in jobs}) < len(jobs):
        raise UsageError("E104", "jobs have the same name", at="jobs", got=", ".join(job.name for job in jobs))
    if not cluster.endpoints and any(_calls(job) for job in jobs):
        raise UsageError("E104", "records ask an endpoint, and there is none", at="endpoints", expected="at least 1")
    for job in jobs:
        _check_lengths(job, min((profile.max_model_len for profile in cluster.endpoints), default=0))
    return _Run(cluster, scheduler, jobs, seed).run()


def _calls(job: JobModel) -> bool:
    arrivals = job.arrivals
    samples: Sequence[Demand]
    if isinstance(arrivals, Replay):
        samples = [demand for _, demand in arrivals.arrivals]
    else:
        chance = random.Random(0)
        samples = [_drawn(job.draw, chance) for _ in range(20)]
    return any(phase.output_tokens for demand in samples for phase in demand.phases)


def _check_lengths(job: JobModel, most: int) -> None:
    """Requests of a trace can be longer than an endpoint takes."""
    arrivals = job.arrivals.arrivals if isinstance(job.arrivals, Replay) else ()
    for number, (_, demand) in enumerate(arrivals, 1):
        longest = max((phase.prompt_tokens + phase.output_tokens for phase in demand.phases), default=0)
        if longest > most:
            raise UsageError(
                "E104", "this request is longer than an endpoint takes", at=f"job {job.name}, request {number}",
                got=f"{longest} tokens", expected=f"at most {most}", try_="another profile, or shorter requests",
            )  # fmt: skip


def _drawn(draw: Draw | None, chance: random.Random) -> Demand:
    assert draw is not None
    return draw(chance)
