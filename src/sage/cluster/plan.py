"""What is to be started: nodes, with their share of this machine, and whether it can carry them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sage.cluster.cluster import APART, LOOPBACK
from sage.errors import ClusterError, UsageError

MOST_NODES = 200
NODE_BYTES = 330_000_000
"""Room for a node (180 MB when idle, Ray 2.60) and a worker on it (130 MB)."""
HEAD_BYTES = 250_000_000
"""What the head takes beyond that, twice over."""
LEAST_STORE_BYTES = 80_000_000
"""Ray refuses less than 75 MiB."""
MOST_STORE_BYTES = 2_000_000_000
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node to start.

    `cpus` and `gpus` are how many Ray counts; without `gpus` it looks for them. Those with `forwards_output` send what
    workers print to the drivers. `namespaces` are files of namespaces that its processes enter: a machine of the
    network laboratory.
    """

    name: str
    cpus: int
    store_bytes: int
    gpus: int | None = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    forwards_output: bool = False
    address: str = LOOPBACK
    namespaces: Sequence[str] = ()


def plan_nodes(
    nodes: int,
    cpus: int | None = None,
    store_bytes: int | None = None,
    resources: Mapping[str, float] | None = None,
    *,
    apart: bool = False,
) -> tuple[NodePlan, ...]:
    """`nodes` equal nodes on loopback, called ``node-0`` (the head) and so on.

    Without `cpus` they divide the processors of this machine, without `store_bytes` a third of its free shared memory.
    If they are `apart`, each stands for a machine of its own.
    Raises `UsageError` E104 for numbers that make no sense, `ClusterError` E837 where memory does not suffice.
    """
    _check_number("nodes", nodes, 1, MOST_NODES)
    if cpus is None:
        cpus = max(1, len(os.sched_getaffinity(0)) // nodes)
    _check_number("cpus", cpus, 0, 10_000)
    if store_bytes is None:
        store_bytes = min(MOST_STORE_BYTES, max(LEAST_STORE_BYTES, _free_shared_bytes() // 3 // nodes))
    _check_number("bytes of the object store", store_bytes, LEAST_STORE_BYTES, 1 << 50)
    check_memory(nodes)
    gpus = None if nodes == 1 else 0  # several nodes would each count all of them
    return tuple(
        NodePlan(name, cpus, store_bytes, gpus, dict(resources or {}), {APART: name} if apart else {})
        for name in (f"node-{number}" for number in range(nodes))
    )


def check_memory(nodes: int) -> None:
    """Raise `ClusterError` E837 if this machine has not the memory for so many idle nodes."""
    free, needed = free_memory_bytes(), HEAD_BYTES + nodes * NODE_BYTES
    if needed > free:
        fit = max(0, (free - HEAD_BYTES) // NODE_BYTES)
        raise ClusterError(
            "E837",
            "this machine has not the memory for so many nodes of Ray",
            at=f"{nodes} nodes",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB",
            try_=f"at most {fit} nodes" if fit else "freeing memory",
        )


def free_memory_bytes() -> int:
    """What can be taken now: of the machine, or of the control group, whichever is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # not this kind of control group, or "max"
            continue
    return max(0, free)


def _free_shared_bytes() -> int:
    found = os.statvfs(SHARED_MEMORY)
    return min(found.f_bavail * found.f_frsize, free_memory_bytes())


def _check_number(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UsageError("E104", f"a number of {what} that cannot be used", got=number, expected=f"{least} to {most}")
