"""A Ray cluster of two nodes for the tests of engines, and which of these tests run on it."""

import logging
import os
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from sage import cluster

MARKS = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and files
]
SAMPLED = "test_routes.py"
ONE_IN = 3
"""Of the tests of engines, so many of this file run on Ray on every change, because each file connects anew for five
seconds, and beside them `test_ray.py`; `make test-ray` runs all."""


def two_nodes() -> Iterator[cluster.Cluster]:
    """What a fixture needs."""
    if find_spec("ray") is None and os.environ.get("CI") != "true":
        pytest.skip("Ray is not installed")
    with cluster.private(nodes=2, cpus=1, apart=True) as made:
        yield made


def connected(to: cluster.Cluster) -> Iterator[Any]:
    """The same: this process as its driver."""
    with cluster.connect(to, log_to_driver=False, logging_level=logging.ERROR) as ray:
        yield ray


def is_left_out(item: pytest.Item, which: str) -> bool:
    """Whether the item is left to `make test-ray`.

    So are tests of engines on Ray that are not in the sample, which is the same on every run, and those that say the
    same on every engine, beyond the first.
    """
    if which == "all":
        return False
    engine = _engine_of(item)
    is_thorough = item.get_closest_marker("thorough") is not None
    is_again = engine not in (None, "local") and item.get_closest_marker("once") is not None
    is_sampled = item.path.name == SAMPLED and zlib.crc32(item.name.encode()) % ONE_IN == 0
    return is_thorough or is_again or (engine == "ray" and not is_sampled)


def _engine_of(item: pytest.Item) -> str | None:
    """The name of the engine that the item is a test of, if it is one."""
    chosen = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
    return None if chosen is None else chosen.name
