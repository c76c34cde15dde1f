"""What more of would help most: tried, not guessed.

Where records wait longest does not tell: they wait for a slot because those in the slots wait for their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage.scheduling import Scheduler
from sage.simulation.cluster import ClusterModel
from sage.simulation.simulator import simulate
from sage.simulation.workload import JobModel

ENOUGH = 8
"""Records of a job for each slot: a trial need not be the whole run."""
LITTLE = 0.05
"""A gain that is none."""
NONE = "none: twice as much of anything brings little"


def bottleneck_of(cluster: ClusterModel, scheduler: Scheduler, jobs: Sequence[JobModel], *, seed: int = 0) -> str:
    """``node slots``, ``node cores`` or ``endpoints``: twice as many of these bring most records a second."""
    enough = ENOUGH * cluster.slots
    trial = [replace(job, records=min(job.records, enough)) for job in jobs]

    def rate(model: ClusterModel) -> float:
        outcome = simulate(model, scheduler, trial, seed=seed)
        return len(outcome.rows) / outcome.ended_s

    least = rate(cluster) * (1 + LITTLE)
    rates = {name: rate(more) for name, more in _doubled(cluster).items()}
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > least else NONE


def _doubled(cluster: ClusterModel) -> Mapping[str, ClusterModel]:
    """By what there is twice as much of."""
    nodes = cluster.nodes
    found = {"node slots": replace(cluster, nodes=tuple(replace(node, slots=2 * node.slots) for node in nodes))}
    if any(node.cores for node in nodes):
        more = tuple(replace(node, cores=node.cores and 2 * node.cores) for node in nodes)
        found["node cores"] = replace(cluster, nodes=more)
    if cluster.endpoints:
        found["endpoints"] = replace(cluster, endpoints=2 * cluster.endpoints)
    return found
