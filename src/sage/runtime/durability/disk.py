"""What the disk and SQLite say, in words of SAGE's that name the file."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage.errors import StorageError


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into a `StorageError` that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error
    except OSError as error:
        raise storage_error(path, error) from error
    except (ValueError, TypeError) as error:  # a row of another type than was written
        raise StorageError("E604", "a journal is damaged", at=str(path), got=str(error)) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """`error`, raised by the system while it worked on `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_room(path)
    return StorageError("E611", "the job directory cannot be used", at=str(path), got=error.strerror)


def _no_room(path: Path) -> StorageError:
    at, try_ = str(path), f"make room: df {path.parent}"
    return StorageError("E601", "no space left for the state of jobs", at=at, try_=try_)


def _of_sqlite(path: Path, error: sqlite3.Error) -> StorageError:
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # absent where the module itself raised
    at, got = str(path), str(error)
    if primary == sqlite3.SQLITE_FULL:
        return _no_room(path)
    if primary == sqlite3.SQLITE_IOERR:
        return StorageError("E602", "the disk failed to store the journal", at=at, got=got, try_="dmesg")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError("E603", "another process holds the journal", at=at, got=got)
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StorageError("E611", "the job directory cannot be used", at=at, got=got)
    return StorageError("E604", "a journal is damaged", at=at, got=got, try_=f"sage job verify {path.parent}")


def sync_folder(folder: Path) -> None:
    """Have the disk know which names are in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
