"""What the system allows a server to hold, and to leave behind."""

from __future__ import annotations

import resource

OPEN_FILES = 65_536
NO_DUMP_BYTES = 1
"""No image is so small, and no program is started that the system would give it to (core(5)); with 0 it is."""


def allow_open_files() -> None:
    """A stream is an open file, and most systems start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def forbid_core_dumps() -> None:
    """What holds keys leaves no image of its memory when it dies, and neither does what it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = NO_DUMP_BYTES if hard == resource.RLIM_INFINITY else min(hard, NO_DUMP_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
