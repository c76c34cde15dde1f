"""What ``sage doctor --engine ray`` looks at: this machine, the cluster, and each of its nodes from the inside."""

from __future__ import annotations

import importlib.metadata as packages
import logging
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from sage.cli.checks import Finding, Level
from sage.clock import SYSTEM_CLOCK
from sage.cluster import Cluster, connect, join, private
from sage.errors import MissingDependency, SageError
from sage.version import __version__

OLDEST_RAY = (2, 56)
"""Older ones have holes that let strangers in, or have no tokens."""
FEW_PORTS = 2_000
SMALL_SHARED_MEMORY_BYTES = 256 << 20
LARGE_CLOCK_DIFFERENCE_S = 1.0
NODE_PATIENCE_S = 60.0
ROUNDS = 5
"""Of questions for the time; the quickest answer tells it best."""
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def ray_findings(address: str | None, *, insecure: bool) -> Iterator[Finding]:
    """Every finding, as soon as it is there. Without an address a private cluster is started, and ended."""
    try:
        found = packages.version("ray")
    except packages.PackageNotFoundError:
        yield Finding("ray", Level.FAIL, "Ray is not installed", "pip install 'sage-pipelines[ray]'")
        return
    yield _ray(found)
    yield _ports()
    with ExitStack() as held:
        try:
            cluster = held.enter_context(private()) if address is None else join(address, insecure=insecure)
        except SageError as error:
            yield _failed("ray cluster", error)
            return
        yield _cluster(cluster, was_started=address is None)
        yield _token(cluster)
        try:
            ray = held.enter_context(connect(cluster, log_to_driver=False, logging_level=logging.ERROR))
        except (SageError, RuntimeError, OSError) as error:
            yield _failed("ray driver", error)
            return
        yield from _nodes(ray, cluster)


def _ray(found: str) -> Finding:
    text = f"Ray {found}"
    try:
        import_module("ray")
    except ImportError as error:
        return _failed("ray", error)
    if tuple(map(int, found.split(".")[:2])) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        return Finding("ray", Level.FAIL, f"{text} is known to be unsafe", f"pip install 'ray[default]>={oldest}'")
    return Finding("ray", Level.OK, text)


def _ports() -> Finding:
    try:
        first, last = map(int, _PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return Finding("ray ports", Level.WARN, f"{_PORT_RANGE} cannot be read", "leave room for 12 ports a node")
    found = f"{last - first + 1:,} for outgoing and unnamed ports ({first} to {last}); a node takes about 12"
    if last - first < FEW_PORTS:
        return Finding("ray ports", Level.WARN, found, 'sysctl net.ipv4.ip_local_port_range="32768 60999"')
    return Finding("ray ports", Level.OK, found)


def _cluster(cluster: Cluster, *, was_started: bool) -> Finding:
    asks = cluster.token_path is not None or cluster.token_in_environment
    how = "a private one was started" if was_started else "it answers"
    found = (
        f"{cluster.address}: {how}, {_nodes_in_words(cluster)}, {'asks for a token' if asks else 'asks for NO token'}"
    )
    if asks:
        return Finding("ray cluster", Level.OK, found)
    return Finding("ray cluster", Level.WARN, found, "start it with RAY_AUTH_MODE=token: who reaches it runs any code")


def _nodes_in_words(cluster: Cluster) -> str:
    return "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"


def _token(cluster: Cluster) -> Finding:
    path = cluster.token_path
    if path is None:
        where = "in RAY_AUTH_TOKEN" if cluster.token_in_environment else "none is needed"
        return Finding("ray token", Level.OK, where)
    mode = stat.S_IMODE(path.stat().st_mode)
    found = f"{path}, mode {mode:04o}"
    if mode & 0o077:
        return Finding("ray token", Level.WARN, f"{found}: others on this machine can read it", f"chmod 600 {path}")
    return Finding("ray token", Level.OK, found)


def _nodes(ray: Any, cluster: Cluster) -> Iterator[Finding]:
    """One finding a node. What runs there is sent as code: a node without SAGE is to be told, not to fail."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        for node in cluster.nodes:
            yield _node(ray, node.name, node.node_id)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _node(ray: Any, name: str, node_id: str) -> Finding:
    subject = f"node {name}"
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(_look_around).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    try:
        answers = [_timed(ray, task) for _ in range(ROUNDS)]
    except ray.exceptions.RayError as error:
        return Finding(
            subject, Level.FAIL, f"it runs no task: {type(error).__name__}", "its logs: ray logs, or RAYDIR/logs"
        )
    told = answers[0][1]
    apart_s, unsure_s = min((pair[0] for pair in answers), key=lambda pair: pair[1])
    return _judged(subject, told, apart_s, unsure_s)


def _timed(ray: Any, task: Any) -> tuple[tuple[float, float], dict[str, Any]]:
    """How far its clock is ahead, how unsure that is, and what it told."""
    before_s = SYSTEM_CLOCK.wall()
    told: dict[str, Any] = ray.get(task.remote(), timeout=NODE_PATIENCE_S)
    after_s = SYSTEM_CLOCK.wall()
    return (told["wall_s"] - (before_s + after_s) / 2, (after_s - before_s) / 2), told


def _judged(subject: str, told: dict[str, Any], apart_s: float, unsure_s: float) -> Finding:
    found = (
        f"SAGE {told['sage']}, Ray {told['ray']}, Python {told['python']}; clock {apart_s * 1000:+.0f} ms "
        f"(to {unsure_s * 1000:.0f}); /dev/shm {told['shared_free_bytes'] >> 20:,} MB free"
    )
    if told["sage"] is None:
        return Finding(subject, Level.FAIL, found, f"pip install sage-pipelines=={__version__} on it")
    if told["sage"] != __version__:
        return Finding(subject, Level.FAIL, found, f"the same SAGE everywhere: {__version__}")
    if abs(apart_s) - unsure_s > LARGE_CLOCK_DIFFERENCE_S:
        return Finding(subject, Level.WARN, found, "set its clock (chrony): what is logged there cannot be compared")
    if told["shared_free_bytes"] < SMALL_SHARED_MEMORY_BYTES:
        return Finding(subject, Level.WARN, found, "in a container: docker run --shm-size=1g")
    return Finding(subject, Level.OK, found)


def _look_around() -> dict[str, Any]:
    """What a node tells of itself; it runs there, where there may be no SAGE."""
    import importlib.metadata
    import os
    import platform
    import time

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    shared = os.statvfs("/dev/shm")
    return {
        "sage": version("sage-pipelines"),
        "ray": version("ray"),
        "python": platform.python_version(),
        "shared_free_bytes": shared.f_bavail * shared.f_frsize,
        "wall_s": time.clock_gettime(time.CLOCK_REALTIME),
    }


def _failed(subject: str, error: Exception) -> Finding:
    if isinstance(error, SageError) and not isinstance(error, MissingDependency):
        return Finding(subject, Level.FAIL, f"{error.what} ({error.at}, {error.got})", error.try_)
    return Finding(subject, Level.FAIL, str(error), "pip install 'sage-pipelines[ray]'")
