"""Cases in virtual time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import inf
from time import perf_counter

from sage.bench.case import Case, Load
from sage.bench.executor import Run
from sage.bench.figures import WARM_UP
from sage.errors import UsageError
from sage.llm.simulated import Profile, profile_named
from sage.scheduling import Replica, Work, scheduler_named
from sage.simulation import (
    Closed,
    ClusterModel,
    JobModel,
    NetworkModel,
    NodeModel,
    Poisson,
    nodes_of,
    pipeline_named,
    simulate,
)

DECISIONS = 200


class VirtualCluster:
    """`sage.simulation`: models of nodes, network and endpoints, under the schedulers and limits of real runs."""

    where = "virtual time"
    label = "virtual time, simulated endpoint"

    def __init__(self, profile: str = "a100-qwen2.5-3b") -> None:
        self._profile: Profile = profile_named(profile)

    def check(self, case: Case) -> None:
        if not case.loads:
            raise UsageError("E104", "this takes real processes", at=f"case {case.name}", try_="--cluster local")
        nodes_of(case.nodes, slots=case.slots, cores=case.cores)
        scheduler_named(case.scheduler)
        for load in case.loads:
            pipeline_named(load.pipeline)

    def run(self, case: Case, seed: int) -> Run:
        scheduler = scheduler_named(case.scheduler)
        nodes = nodes_of(case.nodes, slots=case.slots, cores=case.cores)
        limited = case.admission != "none" and case.room is None
        endpoints = (self._profile,) * case.endpoints
        cluster = replace(nodes, endpoints=endpoints, limited=limited, in_flight=case.room)
        outcome = simulate(cluster, scheduler, [_job(case, load) for load in case.loads], seed=seed)
        figures = {"slots_busy": outcome.slots_busy, "decision_us": _decision_us(case)}
        figures |= ideal_of(case, self._profile, seed)
        if outcome.output_tokens:
            figures["output_tokens_per_s"] = outcome.output_tokens / outcome.ended_s
        return Run(outcome.rows, figures)

    def close(self) -> None:
        """There is nothing to end."""


def ideal_of(case: Case, profile: Profile, seed: int) -> dict[str, float]:
    """What the same load would do on one machine with all the slots, no network, and nothing to decide; nothing where
    the load itself says when records come."""
    if any(load.rate_per_s is not None or load.start_s for load in case.loads):
        return {}
    cores = None if case.cores is None else case.nodes * case.cores
    node = NodeModel(case.nodes * case.slots, 1.0, cores)
    one = ClusterModel((node,), NetworkModel(0.0, inf), (profile,) * case.endpoints)
    loads = [replace(load, in_flight=case.in_flight(load)) for load in case.loads]
    outcome = simulate(one, scheduler_named("fifo"), [_job(case, load) for load in loads], seed=seed)
    warm_s = WARM_UP * outcome.ended_s
    counted = len(outcome.rows) - bisect_right(outcome.rows.ended_s, warm_s)
    return {"ideal_per_s": counted / (outcome.ended_s - warm_s)}


def _job(case: Case, load: Load) -> JobModel:
    arrivals = Closed(case.in_flight(load)) if load.rate_per_s is None else Poisson(load.rate_per_s)
    return JobModel(
        load.name,
        pipeline_named(load.pipeline),
        load.tasks,
        arrivals,
        start_s=load.start_s,
        admitted=case.admission == "jobs",
        adaptive=case.adaptive,
    )


def _decision_us(case: Case) -> float:
    """What one decision costs this machine: the only figure here that is not of virtual time."""
    scheduler = scheduler_named(case.scheduler)
    replicas = [Replica(f"n{index}", case.slots, index % (case.slots + 1)) for index in range(case.nodes)]
    work = Work(cost_s=0.025)
    began = perf_counter()
    for _ in range(DECISIONS):
        scheduler.choose(work, replicas, 1.0)
    return (perf_counter() - began) / DECISIONS * 1e6
