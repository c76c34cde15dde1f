"""Files that nobody but this user may read or change: what jobs and gateways keep."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def opener(path: str, flags: int) -> int:
    """For ``open(..., opener=...)``: a file that is made is this user's alone, whatever the umask says."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def check_private(path: Path, forbidden: int = OTHERS) -> None:
    """Raise PermissionError if `path` is another user's, or gives others a right of `forbidden`."""
    about = path.stat()
    if about.st_uid != os.geteuid():
        raise PermissionError(f"it belongs to another user ({about.st_uid})")
    mode = stat.S_IMODE(about.st_mode)
    if mode & forbidden:
        raise PermissionError(f"others may use it (mode {mode:o}): chmod go= {path}")
