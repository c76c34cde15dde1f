"""What the system allows a server to hold."""

from __future__ import annotations

import resource

OPEN_FILES = 65_536


def allow_open_files() -> None:
    """A stream is an open file, and most systems start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
