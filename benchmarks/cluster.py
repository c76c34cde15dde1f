"""How long a private cluster takes to start, and what it takes: ``python benchmarks/cluster.py [NODES...]``."""

import os
import sys
import time
from pathlib import Path

from sage.cluster import private
from sage.cluster.plan import free_memory_bytes
from sage.cluster.sessions import members


def shared_out_bytes(pid: int) -> int:
    """The memory of a process, with what it shares divided among those that share it."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))


def main() -> None:
    """One line for each number of nodes."""
    print(" nodes  start s  stop s  processes   PSS MB  less free MB  load before")
    for nodes in map(int, sys.argv[1:] or ["1", "2", "4", "8", "16"]):
        free_bytes, load, began = free_memory_bytes(), os.getloadavg()[0], time.perf_counter()
        with private(nodes, cpus=1) as cluster:
            started_s = time.perf_counter() - began
            pids = [process.pid for process in members(node.pid for node in cluster.nodes)]
            total = sum(map(shared_out_bytes, pids))
            taken = free_bytes - free_memory_bytes()
            began = time.perf_counter()
        stopped_s = time.perf_counter() - began
        figures = (
            f"{nodes:>6} {started_s:>8.1f} {stopped_s:>7.1f} {len(pids):>10} {total / 1e6:>8.0f} {taken / 1e6:>13.0f}"
        )
        print(f"{figures} {load:>12.1f}", flush=True)


if __name__ == "__main__":
    main()
