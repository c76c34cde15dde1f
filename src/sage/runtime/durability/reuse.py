"""Results of calls that outlive their jobs: looked up by what was asked, whichever job asked it.

A cache, of several jobs and processes at once. An entry that is damaged or gone is a miss, and the call is made.
Nothing waits for the disk: what a dying machine loses here is in the journal of the job that paid for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sage import codec
from sage.errors import SageError, StorageError
from sage.flow.graph import StepPlan
from sage.flow.operator import Operator
from sage.runtime.durability.blobs import InRows
from sage.runtime.durability.fingerprint import fingerprint
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.row import Change, RowKind, checksum
from sage.version import __version__

FILE, LOCK = "results.db", "lock"
MOST_BYTES = 1 << 30
"""Of the file, about. Beyond it the oldest eighth of the results goes."""
LARGEST_BYTES = 16 << 20
"""A result of more is not kept."""
BEGINNING_BYTES = 8
"""Of a key: enough to tell who need not ask."""
APPLICATION = 0x53524553
FORMAT = 1
BUSY_TIMEOUT_S = 30.0
LOOK_TIMEOUT_S = 1.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS results "
    "(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, crc INTEGER NOT NULL)"
)
_OLDEST = (
    "DELETE FROM results WHERE id <= (SELECT min(id) FROM results) + "
    "((SELECT max(id) FROM results) - (SELECT min(id) FROM results)) / 8"
)
_NAME = "result"


def question_of(plan: StepPlan) -> bytes:
    """The part of a key that all calls of a step have in common: what it does, not what it is called."""
    outside = plan.operator.depends_on() if isinstance(plan.operator, Operator) else None
    version = fingerprint(plan.operator)
    described = [__version__, plan.kind.value, plan.batch_size is not None, version, outside]
    return hashlib.sha256(codec.canonical(described)).digest()


class Reuse:
    """The cache in a folder, made if there is none. From any thread; `get` waits for nobody who writes."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Raises `StorageError`: E612 if the folder cannot be used, E605 if a newer SAGE wrote it."""
        path = folder / FILE
        with _made(folder):
            try:
                self._kept = _Kept(path, most_bytes)
                try:
                    self._reader = _connected(path, LOOK_TIMEOUT_S)
                except BaseException:
                    self._kept.close()
                    raise
            except sqlite3.Error as error:
                raise _unusable(path, str(error)) from error
        self._path = path
        self._lock = threading.Lock()
        self._unread: StorageError | None = None
        self._recorder = Recorder(self._kept, InRows(), lambda _: None)

    @property
    def trouble(self) -> SageError | None:
        """Why results are not reused, or kept, any more."""
        return self._recorder.failure or self._unread

    def get(self, key: bytes) -> tuple[Any] | None:
        """The result in a tuple, if there is one that is whole."""
        try:
            with self._lock:
                row = self._reader.execute("SELECT value, crc FROM results WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._unread = _unusable(self._path, str(error))
            return None
        if row is None or not isinstance(row[0], bytes) or checksum(_NAME, key, row[0]) != row[1]:
            return None
        try:
            return (codec.decode(row[0]),)
        except SageError:  # of a codec that this SAGE does not have
            return None

    def put(self, key: bytes, result: Any) -> None:
        """Keep it, soon; in place of one that is damaged."""
        self.put_encoded(key, codec.encode(result))

    def put_encoded(self, key: bytes, value: bytes) -> None:
        """The same, of what `sage.codec` made of a result."""
        if len(value) <= LARGEST_BYTES:
            self._recorder.record([Change(RowKind.RESULT, key, value)])

    def beginnings(self) -> frozenset[bytes]:
        """The first bytes of all keys: where a key does not begin like one of them, there is no result."""
        try:
            with self._lock:
                rows = self._reader.execute("SELECT substr(key, 1, ?) FROM results", (BEGINNING_BYTES,)).fetchall()
        except sqlite3.Error as error:
            self._unread = _unusable(self._path, str(error))
            return frozenset()
        return frozenset(beginning for (beginning,) in rows)

    def close(self) -> None:
        self._recorder.close()
        self._reader.close()
        self._kept.close()


class _Kept:
    """What the recorder writes to, on its thread."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._connection = _connected(path, BUSY_TIMEOUT_S)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def apply(self, changes: list[Change]) -> None:
        rows = [(c.key, c.value, checksum(_NAME, c.key, c.value)) for c in changes if c.value is not None]
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO results (key, value, crc) VALUES (?, ?, ?)", rows)
                while self._size_bytes() > self._most_bytes and self._connection.execute(_OLDEST).rowcount:
                    pass
        except sqlite3.Error as error:
            raise _unusable(self._path, str(error)) from error

    def close(self) -> None:
        self._connection.close()

    def _size_bytes(self) -> int:
        pages, free, size = (self._value(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def _value(self, pragma: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {pragma}").fetchone()
        return int(value)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        version, application = self._value("user_version"), self._value("application_id")
        if version > FORMAT:
            raise StorageError(
                "E605", "a newer SAGE wrote this", at=str(self._path), got=f"format {version}",
                expected=f"at most {FORMAT}", try_="that SAGE, or another folder",
            )  # fmt: skip
        if application not in (0, APPLICATION) or (application == 0 and self._value("page_count") > 1):
            raise _unusable(self._path, "a file that is no cache of results")
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(_SCHEMA)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        self._connection.execute("COMMIT")


def _connected(path: Path, timeout_s: float) -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path))}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """While inside, the folder and the file are there, for this user alone, and nobody else opens them."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / FILE).exists():  # to open and close one that is there would take SQLite's own locks away
            os.close(os.open(folder / FILE, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _check_private(folder, folder / FILE)
        yield
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    finally:
        os.close(lock)


def _check_private(*paths: Path) -> None:
    """What somebody else could have written is not believed."""
    for path in paths:
        state = path.stat()
        if state.st_uid != os.geteuid() or state.st_mode & 0o022:
            raise _unusable(path, "others may write to it")


def _unusable(path: Path, got: str) -> StorageError:
    return StorageError(
        "E612", "results of other jobs cannot be reused from here", at=str(path), got=got,
        try_="another folder, or remove this one: what is in it is then paid again",
    )  # fmt: skip
