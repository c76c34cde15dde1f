"""Clusters by name."""

from __future__ import annotations

from sage.bench.emulated import EmulatedCluster
from sage.bench.engine import EngineCluster
from sage.bench.executor import Executor
from sage.bench.experiment import Experiment
from sage.bench.joined import JoinedCluster
from sage.bench.options import Options
from sage.bench.virtual import VirtualCluster
from sage.cluster.join import way_to
from sage.errors import UsageError


def executor_for(cluster: str, experiment: Experiment | None = None) -> Executor:
    """``virtual``, ``local``, ``emulated``, or a Ray cluster by address, name, or ``auto``; the caller closes it.

    For an `experiment` that really computes, ``virtual`` means ``local``.
    Raises as `sage.cluster.join.way_to` does where there is no such cluster.
    """
    if cluster == "virtual" and not (experiment is not None and experiment.computes):
        return VirtualCluster()
    if cluster in ("virtual", "local"):
        return EngineCluster("local")
    if cluster == "emulated":
        return EmulatedCluster()
    way_to(cluster)
    return JoinedCluster(cluster)


def executor_of_many(experiment: Experiment, options: Options) -> tuple[Executor, str]:
    """For one of several experiments: virtual time where the cluster cannot run its cases; and why, if so."""
    executor = executor_for(options.cluster, experiment)
    try:
        for case in experiment.cases(options) if experiment.on_clusters else ():
            if case.nodes:
                executor.check(case)
    except UsageError as error:
        executor.close()
        return executor_for("virtual", experiment), str(error)
    return executor, ""
