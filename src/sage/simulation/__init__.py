"""A cluster in virtual time: the scheduling, limiting and balancing of SAGE, against models of nodes and endpoints.

::

    agenda.py     what happens next; the clock
    cluster.py    ClusterModel: nodes, network, endpoints. Plain data
    workload.py   JobModel: records, what each needs, and when they come
    traces.py     arrivals from traces of real requests
    task.py       one record on its way
    node.py       a node: slots and cores
    dispatch.py   who gets which record: asks `sage.scheduling`
    serving.py    endpoints, and the balancer of `sage.llm` before them
    simulator.py  simulate(), which puts these together
    outcome.py    what came out
    bottleneck.py what more of would help most

No second model of a policy stands here: what decides is the code that decides in a real run.
"""

from sage.simulation.bottleneck import bottleneck_of
from sage.simulation.cluster import ClusterModel, NetworkModel, NodeModel, nodes_of
from sage.simulation.outcome import Outcome, Rows, balance_of
from sage.simulation.simulator import simulate
from sage.simulation.traces import read_trace
from sage.simulation.workload import (
    PIPELINES,
    Closed,
    Demand,
    JobModel,
    Phase,
    Poisson,
    Replay,
    computing,
    pipeline_named,
)

__all__ = [
    "simulate", "bottleneck_of", "Outcome", "Rows", "balance_of",
    "ClusterModel", "NodeModel", "NetworkModel", "nodes_of",
    "JobModel", "Demand", "Phase", "Closed", "Poisson", "Replay", "PIPELINES", "pipeline_named",
    "computing", "read_trace",
]  # fmt: skip
