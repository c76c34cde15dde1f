"""Clusters by name."""

from __future__ import annotations

from sage.bench.engine import EngineCluster
from sage.bench.executor import Executor
from sage.bench.virtual import VirtualCluster
from sage.cluster.join import way_to


def executor_for(cluster: str) -> Executor:
    """``virtual``, ``local``, or a Ray cluster by its address, its name, or ``auto``; whoever asks closes it.

    Raises as `sage.cluster.join.way_to` does where there is no such cluster.
    """
    if cluster == "virtual":
        return VirtualCluster()
    if cluster != "local":
        way_to(cluster)
    return EngineCluster(cluster)
