"""One record on its way through the cluster."""

from __future__ import annotations

from sage.simulation.workload import Demand


class Task:
    """Where it is, and where its time went. `queueing_s`, `execution_s` and `scheduling_s` add up to its latency."""

    __slots__ = (
        "demand", "ended_s", "execution_s", "index", "intended_s", "job", "job_index", "node", "phase", "placed_s",
        "queueing_s", "scheduling_s", "since_s",
    )  # fmt: skip

    def __init__(self, index: int, job: str, job_index: int, demand: Demand, intended_s: float) -> None:
        self.index = index
        self.job = job
        self.job_index = job_index
        self.demand = demand
        self.intended_s = intended_s
        """When it should have started: its latency counts from here."""
        self.since_s = intended_s
        """When what it does or waits for now began."""
        self.node = -1
        self.phase = 0
        self.placed_s = 0.0
        """When a slot took it."""
        self.ended_s = 0.0
        self.scheduling_s = 0.0
        """On its way to and from the node that was chosen."""
        self.queueing_s = 0.0
        """Waited for a node, a slot, a core or an endpoint."""
        self.execution_s = 0.0
