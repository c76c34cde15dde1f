"""The cluster of a run: joined, or started for it; and its nodes, as a scheduler sees them."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from sage import cluster
from sage.errors import HostError, MissingDependency
from sage.runtime.ray_placement import resources_of
from sage.runtime.ray_project import runtime_environment
from sage.scheduling import Node

ANSWER_S = 2.0
"""How long a node may take to take a connection, and to say something."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC says first. The kernel takes connections also for processes that stand still."""


@contextmanager
def connected(address: str | None, *, insecure: bool) -> Iterator[None]:
    """While inside, this process is a driver of the cluster at `address`, or of a private one.

    Where the program has connected to a cluster itself, that is the one.
    """
    try:
        import ray
    except ImportError:
        raise MissingDependency("ray", "ray", "engine 'ray'") from None
    if ray.is_initialized():
        yield
        return
    with ExitStack() as held:
        found = held.enter_context(cluster.private()) if address is None else cluster.join(address, insecure=insecure)
        project = None if found.is_loopback else runtime_environment()
        with _handlers_kept():
            options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": project}
            held.enter_context(cluster.connect(found, **options))
        yield


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which is to stop the run."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def nodes_of_cluster(*, answering: bool = False) -> list[Node]:
    """Those that are alive and have processors. Raises E812 if there is none.

    Ray takes a node for alive up to a minute after its end; with `answering`, only those that answer: or all, where
    none does.
    """
    import ray

    alive = [
        node
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
    nodes = [
        Node(
            node["NodeID"],
            slots=int(node["Resources"]["CPU"]),
            free=resources_of(node["Resources"]),
            labels=node.get("Labels") or {},
        )
        for node in (_answering(alive) or alive if answering else alive)
    ]
    if not nodes:
        raise HostError("E812", "no node of the cluster has a processor for tasks", try_="ray status")
    return sorted(nodes, key=lambda node: node.name)


def _answering(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    with ThreadPoolExecutor(max(1, len(nodes)), "sage-nodes") as asking:
        return [node for node, answers in zip(nodes, asking.map(_answers, nodes), strict=True) if answers]


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether its raylet does."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_S) as connection:
            connection.sendall(GREETING)
            return bool(connection.recv(1))
    except OSError:
        return False
