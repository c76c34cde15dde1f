"""Clusters by name."""

from __future__ import annotations

import re

from sage.bench.engine import EngineCluster
from sage.bench.executor import Executor
from sage.bench.virtual import VirtualCluster
from sage.errors import UsageError


def executor_for(cluster: str) -> Executor:
    """``virtual``, ``local``, ``emulated`` or the address of a Ray cluster; whoever asks closes it.

    Raises `UsageError` E104 for anything else.
    """
    if cluster == "virtual":
        return VirtualCluster()
    if cluster in ("local", "emulated") or re.fullmatch(r"(ray://)?[\w.\-\[\]:]+:\d+", cluster):
        return EngineCluster(cluster)
    raise UsageError(
        "E104",
        "there is no such cluster",
        at="--cluster",
        got=cluster,
        expected="virtual, local, emulated or HOST:PORT",
    )
