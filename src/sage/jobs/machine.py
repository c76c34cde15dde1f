"""What this machine has for jobs."""

from __future__ import annotations

import os
from pathlib import Path


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """All of it: of the machine, or of the control group, whichever is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):  # not this kind of control group, or "max"
            continue
    return found
