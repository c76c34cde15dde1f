"""One run of a job at a time: a lock that the kernel holds as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sage.errors import StorageError


class JobLock:
    """Held until `close`, or the end of the process. Raises `StorageError` E603 that names who holds it."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError("E611", "the job directory cannot be used", at=str(path), got=error.strerror) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StorageError(
                "E603", "the journal is locked by another run of this job", at=str(path.parent), got=f"pid {holder}",
                try_="wait for it to end, or stop it",
            ) from error  # fmt: skip
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._file)
