"""A cluster as a table: what its nodes are, and what they take now."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sage.cli.figures import columns_as_text, count
from sage.cluster.named import Named
from sage.cluster.probe import probe
from sage.cluster.sessions import members
from sage.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Row:
    """One node. `memory_bytes` counts what processes share once, `state` is what the head says of it."""

    name: str
    address: str
    pids: Sequence[int]
    cpus: float
    state: str
    memory_bytes: int


def table(named: Named) -> list[Row]:
    """A row for each node that was started."""
    living = _known_to_head(named) if named.is_held and not named.namespaces else None
    rows = []
    for node in named.cluster.nodes:
        pids = sorted(process.pid for process in members([node.pid])) if named.is_held else []
        if not pids:
            state = "dead"
        elif living is None:
            state = "runs"
        else:
            state = "alive" if node.node_id in living else "not known to the head"
        memory_bytes = sum(map(_memory_bytes, pids))
        rows.append(Row(node.name, node.address, pids, node.cpus, state, memory_bytes))
    return rows


def describe(named: Named) -> list[str]:
    """The cluster in words, then its table."""
    if not named.is_held:
        return [f"cluster {named.name}: its processes have ended. Try: sage cluster down --name {named.name}"]
    rows = table(named)
    columns = {
        "address": [row.address for row in rows],
        "leader": [str(row.pids[0]) if row.pids else "-" for row in rows],
        "processes": [str(len(row.pids)) for row in rows],
        "cpus": [f"{row.cpus:g}" for row in rows],
        "memory": [f"{count(row.memory_bytes / 1e6)} MB" for row in rows],
        "state": [row.state for row in rows],
    }
    width = shutil.get_terminal_size((120, 24)).columns
    return [
        f"cluster {named.name}: {named.cluster.address}, {named.network}; its token is in {named.cluster.token_path}",
        *columns_as_text("  node", [f"  {row.name}" for row in rows], columns, width),
        _how_to_use(named),
    ]


def _how_to_use(named: Named) -> str:
    if named.namespaces:
        return f"use it: sage cluster exec --name {named.name} -- sage run FILE --address auto"
    return f"use it: sage run FILE --engine ray --address {named.name}"


def _known_to_head(named: Named) -> set[str] | None:
    assert named.cluster.token_path is not None
    try:
        answer = probe(named.cluster.address, named.cluster.token_path.read_text())
    except (ClusterError, OSError):
        return set()
    return {node.node_id for node in answer.nodes}


def _memory_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
