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
ONE_IN = 40
"""Of the tests of engines, so many run on Ray on every change; `make test-ray` runs all."""


def two_nodes() -> Iterator[cluster.Cluster]:
    """What a fixture needs."""
    if find_spec("ray") is None and os.environ.get("CI") != "true":
        pytest.skip("Ray is not installed")
    with cluster.private(nodes=2, cpus=1) as made:
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
    on_ray = "engine" in getattr(item, "fixturenames", ()) and item.get_closest_marker("ray") is not None
    is_thorough = item.get_closest_marker("thorough") is not None
    is_again = item.get_closest_marker("once") is not None and "[local" not in item.name
    return is_thorough or is_again or (on_ray and zlib.crc32(item.name.encode()) % ONE_IN > 0)
