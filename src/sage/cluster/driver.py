"""This process as a driver of a cluster: ``ray.init``, with what Ray takes from the environment put in place before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from sage import settings
from sage.cluster.cluster import Cluster
from sage.errors import ClusterError


@contextmanager
def connect(cluster: Cluster, **options: Any) -> Iterator[Any]:
    """The module ``ray``, connected to `cluster` until the end of the block; `options` are those of ``ray.init``.

    Raises `ClusterError` E839 if this process is a driver already: Ray allows one cluster at a time.
    """
    with settings.environment(cluster.environment()):
        ray = import_module("ray")
        if ray.is_initialized():
            raise ClusterError("E839", "this process is connected to a Ray cluster already", try_="ray.shutdown()")
        _refresh(cluster)
        ray.init(cluster.address, **options)
        try:
            yield ray
        finally:
            ray.shutdown()


def _refresh(cluster: Cluster) -> None:
    """Ray reads its environment once, when it is imported, which may have been long ago."""
    sys.modules["ray._private.ray_constants"].ENABLE_RAY_CLUSTER = not cluster.is_loopback  # type: ignore[attr-defined]
    raylet = import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
