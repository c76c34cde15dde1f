"""The file behind a queue between processes: in memory, this user's own, gone with its owner."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from sage.errors import QueueError
from sage.queues.mapping import Mapping, known
from sage.queues.peers import nobody_is_there, take_ownership
from sage.queues.ring_layout import HEADER_BYTES, MAGIC, RING_BYTES, set_up, shape

FOLDER = Path("/dev/shm")
_PREFIX = "sage-queue-"


def path_of(token: str) -> Path:
    """Where the file of a queue is."""
    return FOLDER / f"{_PREFIX}{token}"


def make(path: Path, limit: int) -> Mapping:
    """A file without a name, ready for use: `publish` names it. Raises E507."""
    try:
        fd = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        os.fchmod(fd, 0o600)
        os.posix_fallocate(fd, 0, HEADER_BYTES + RING_BYTES)
        set_up(fd, limit)
        take_ownership(fd)
    except OSError as error:
        os.close(fd)
        raise _failed(path, error) from error
    return Mapping(fd)


def publish(fd: int, path: Path) -> None:
    """Give the file its name. Raises `FileExistsError`."""
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)  # with a folder's number, it follows links


def attach(path: Path, limit: int) -> Mapping:
    """The file of a queue of this capacity. Raises E507, E503, or `FileNotFoundError`."""
    mapping = known(path.lstat())
    if mapping is not None:
        _check(mapping.fd, path, limit)
        return mapping
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed(path, error) from error
    try:
        _check(fd, path, limit)
    except BaseException:
        os.close(fd)
        raise
    return Mapping(fd)


def _check(fd: int, path: Path, limit: int) -> None:
    about = os.fstat(fd)
    if about.st_uid != os.geteuid() or not stat.S_ISREG(about.st_mode) or stat.S_IMODE(about.st_mode) != 0o600:
        raise QueueError("E507", "the file of the queue is not this user's own", at=str(path))
    magic, ring_bytes, found = shape(fd)
    if about.st_size < HEADER_BYTES + RING_BYTES or (magic, ring_bytes) != (MAGIC, RING_BYTES):
        raise QueueError("E507", "the file is no queue of this version", at=str(path))
    if found != limit:
        raise QueueError("E503", "the queue has another capacity", at=str(path), got=found, expected=str(limit))


def remove(fd: int, path: Path) -> None:
    """Remove the name of the open file, if it still has it."""
    if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
        path.unlink(missing_ok=True)


def sweep(own: Collection[Path]) -> None:
    """Remove files of this user whose processes are all dead. `own` are those that this process has open."""
    for path in FOLDER.glob(f"{_PREFIX}*"):
        if path in own:
            continue  # to open and close it would give up this process's locks on it
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone meanwhile
            continue
        try:
            if os.fstat(fd).st_uid == os.geteuid() and nobody_is_there(fd):
                path.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _failed(path: Path, error: OSError) -> QueueError:
    what = f"the file of the queue cannot be used ({error.strerror})"
    return QueueError("E507", what, at=str(path), try_=f"df {FOLDER}")
