"""Cases on an emulated cluster: real nodes of Ray on this machine, as many as the largest case asks for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from sage.bench.case import Case
from sage.bench.engine import EngineCluster
from sage.bench.executor import Run
from sage.bench.work import Stamped
from sage.cluster import connect
from sage.cluster.keeping import Keeping
from sage.cluster.plan import NodePlan, check_memory, plan_nodes
from sage.errors import UsageError
from sage.flow import StepOptions
from sage.runtime.ray_placement import MOST_HOSTS

MOST_NODES = 64
PLENTY = 1000.0


class EmulatedCluster(EngineCluster):
    """Started when the first case runs, with all nodes that any checked case has; each case uses the first of them.

    Nodes are on loopback, so no network is emulated. Every process of them ends with `close()`, or with this process.
    """

    def __init__(self, profile: str = "a100-qwen2.5-3b") -> None:
        super().__init__("emulated", profile)
        self.where = "emulated cluster of Ray nodes on loopback"
        self._nodes = 0
        self._workers = 1
        self._held: ExitStack | None = None

    def check(self, case: Case) -> None:
        """Raises `ClusterError` E837 if this machine has not the memory for the nodes, before it starts any."""
        if case.nodes > MOST_NODES:
            raise UsageError("E104", "bad number of nodes", at="--nodes", got=case.nodes, expected=f"1 to {MOST_NODES}")
        self._nodes = max(self._nodes, case.nodes)
        self._workers = max(self._workers, case.slots)
        if not case.loads and self._nodes * self._workers > MOST_HOSTS:
            wrong = f"{self._nodes} nodes of {self._workers} workers"
            raise UsageError("E104", "too many workers", at="--workers", got=wrong, expected=f"at most {MOST_HOSTS}")
        super().check(case)
        check_memory(self._nodes)

    def run(self, case: Case, seed: int) -> Run:
        self._start()
        return super().run(case, seed)

    def perform(self, function: Any, count: int, case: Case) -> list[Stamped]:
        self._start()
        return super().perform(function, count, case)

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _start(self) -> None:
        if self._held is not None:
            return
        with ExitStack() as held:
            keeping = Keeping()
            held.callback(keeping.close)
            cluster = keeping.start(plans_for(self._nodes, self._workers))
            held.enter_context(connect(cluster, log_to_driver=False, logging_level=logging.ERROR))
            self._held = held.pop_all()

    def _workers_of(self, case: Case) -> StepOptions:
        return {**super()._workers_of(case), "resources": {_among(case.nodes): 1.0}}

    def _hosts(self, case: Case) -> int | None:
        """As many as there are CPUs; where nothing is placed, because the step keeps to its nodes, none is started."""
        return None

    def _engine(self, hosts: int | None) -> dict[str, Any]:
        """This process is connected to the cluster."""
        return {"engine": "ray", "hosts": hosts}


def plans_for(nodes: int, workers: int) -> Sequence[NodePlan]:
    """Nodes with so many CPUs; the first n of them have a resource that says so, for every n."""
    plans = plan_nodes(nodes, cpus=workers)
    return [
        replace(plan, resources={_among(count): PLENTY for count in range(number + 1, nodes + 1)})
        for number, plan in enumerate(plans)
    ]


def _among(nodes: int) -> str:
    return f"sage_among_{nodes}"
