"""A cluster of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sage.cluster.cluster import Cluster
from sage.cluster.keeping import Keeping
from sage.cluster.plan import plan_nodes


@contextmanager
def private(
    nodes: int = 1,
    cpus: int | None = None,
    *,
    store_bytes: int | None = None,
    resources: Mapping[str, float] | None = None,
    apart: bool = False,
) -> Iterator[Cluster]:
    """Real Ray nodes on loopback, for those who have their token; every process of them ends with the block.

    They also end when this process is killed. Starting takes 4 s or more. Each node has `cpus` CPUs and an object store
    of `store_bytes`; without, they divide what this machine has. Those `apart` stand for machines of their own:
    hosts on them talk over links, though there is memory that they could share.
    Raises `MissingDependency` without Ray, `UsageError` E104 for numbers that cannot be used, `ClusterError` E837 where
    memory does not suffice and E830 if a node does not start.
    """
    plans = plan_nodes(nodes, cpus, store_bytes, resources, apart=apart)
    keeping = Keeping()
    try:
        yield keeping.start(plans)
    finally:
        keeping.close()
