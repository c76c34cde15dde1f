"""A Ray of the tests' own: on this machine, on loopback, for those who have its token."""

import gc
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from conftest import _threads, _wait_until
from sage.cluster import connect, private
from sage.queues import handles

MARKS = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and files
]

if find_spec("ray") is None and os.environ.get("CI") != "true":
    pytest.skip("Ray is not installed", allow_module_level=True)
ray = import_module("ray")

_DRIVER = {"namespace": "tests", "log_to_driver": False, "configure_logging": False}


def run_ray() -> Iterator[None]:
    """Start Ray, and end it: what a fixture needs."""
    with private(1, 2, store_bytes=200_000_000) as cluster, connect(cluster, **_DRIVER):
        yield


def run_two_nodes() -> Iterator[str]:
    """The same with two nodes, both on this machine; the id of the one where this process is not."""
    with private(2, 2, store_bytes=200_000_000) as cluster, connect(cluster, **_DRIVER):
        here = ray.get_runtime_context().get_node_id()
        (there,) = [node.node_id for node in cluster.nodes if node.node_id != here]
        yield there


def actors() -> list[str]:
    """The names of those that host queues."""
    return [name for name in ray.util.list_named_actors() if name.startswith("sage-queues-")]


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Start `function` as a task."""
    return ray.remote(function).options(num_cpus=0, max_retries=0, **options).remote(*args)


def wait_until_left() -> None:
    """In place of the usual check that a test leaves nothing behind: Ray's own children and sockets come and go."""
    gc.collect()
    _wait_until(lambda: not actors() and not handles.addresses() and not _threads())
