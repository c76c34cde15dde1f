"""Checked rows in one SQLite file: each row has a checksum, and one row has the count and the sum of all others.

SQLite finds torn writes, but not a bit that flips on the disk, nor a page that is of another moment than its
neighbours. A row that is not what was written, one too many or one too few is E604 here, and never a value.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from zlib import crc32

from sage.errors import StorageError

FORMAT = 1
"""Of the file. One that is newer is refused."""
APPLICATION = 0x53414745
BUSY_TIMEOUT_S = 30.0
_SCHEMA = {
    ("table", "rows"): "CREATE TABLE rows (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL, "
    "value BLOB NOT NULL, crc INTEGER NOT NULL)",
    ("index", "rows_by_key"): "CREATE UNIQUE INDEX rows_by_key ON rows (kind, key)",
}
_ADD = "INSERT INTO rows (kind, key, value, crc) VALUES (?, ?, ?, ?) ON CONFLICT (kind, key) DO NOTHING"
_PUT = (
    "INSERT INTO rows (kind, key, value, crc) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, crc = excluded.crc"
)
_MODULO = 1 << 64


class RowKind(StrEnum):
    """What a row is about."""

    HEAD = "head"
    """How many rows of each kind there are, and the sum of their checksums."""
    META = "meta"
    """What the job is, and where it stands."""
    POSITION = "position"
    """By partition: what of it is finished."""
    OUTPUT = "output"
    """By sink: how far its output is safe."""
    APPLIED = "applied"
    """Ids of records of unfinished stretches that a sink or a reduction has taken up."""
    STATE = "state"
    """By reduction and key: the value."""
    COLLECTED = "collected"
    """Records that were collected in memory."""
    RESULT = "result"
    """By step key: what a call gave."""
    ADOPTED = "adopted"
    """By step key: that the result was not paid by this job, but found among those that jobs share."""
    DEATHS = "deaths"
    """By step key: how often a process died while the call was in flight."""
    BILL = "bill"
    """By run and step: calls made, kept, reused, failed."""


class Change(NamedTuple):
    """A row to be written; without a value, to be removed; with `once`, only if there is none."""

    kind: RowKind
    key: bytes
    value: bytes | None
    once: bool = False


class Row(NamedTuple):
    number: int
    kind: str
    key: bytes
    value: bytes
    crc: int

    @property
    def is_whole(self) -> bool:
        return self.crc == checksum(self.kind, self.key, self.value)


def checksum(kind: str, key: bytes, value: bytes) -> int:
    """Over all of a row, with the lengths, so that no byte can pass for one of its neighbour."""
    name = kind.encode()
    return crc32(value, crc32(key, crc32(struct.pack("<III", len(name), len(key), len(value)) + name)))


class Rows:
    """The open file. From any thread; who looks a row up with `get` does not wait for a commit that is under way.

    With an `epoch`, changes are refused (E603) when a later run has begun. Raises `StorageError`: E601 without room,
    E602 when the disk fails, E604 for what is damaged, E605 for what is newer, E611 when it cannot be used at all.
    """

    def __init__(self, path: Path, *, epoch: int | None = None, read_only: bool = False) -> None:
        self.path = path
        self._epoch = epoch
        self._lock = threading.RLock()
        self._looking = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._address = f"file:{quote(os.fsencode(path))}?mode={'ro' if read_only else 'rw'}"
        with self._translated():
            self._connection = self._connected()
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def create(cls, path: Path, changes: list[Change]) -> None:
        """Make the file with these rows; it appears whole or not at all."""
        draft = path.with_name(path.name + ".new")
        with _translated(path):
            for end in ("", "-journal", "-wal", "-shm"):
                Path(f"{draft}{end}").unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                for statement in (
                    *_SCHEMA.values(),
                    f"PRAGMA application_id = {APPLICATION}",
                    f"PRAGMA user_version = {FORMAT}",
                ):
                    connection.execute(statement)
            finally:
                connection.close()
        rows = cls(draft)
        try:
            rows.apply(changes)
        finally:
            rows.close()
        with _translated(path):
            os.rename(draft, path)
            sync_folder(path.parent)

    def apply(self, changes: list[Change]) -> None:
        """All of them or none, and on the disk when this returns."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_epoch()
                head = self._head()
                for change in changes:
                    self._change(change, head)
                self._put(RowKind.HEAD, b"", _packed(head))
                self._commit()
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def get(self, kind: RowKind, key: bytes) -> bytes | None:
        """The value of a row, if there is one."""
        with self._looking, self._translated():
            if self._reader is None:
                self._reader = self._connected()
            found = _found(self._reader, kind, key)
            return None if found is None else self._checked(found).value

    def each(self, kind: RowKind) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of all rows of a kind, by key."""
        with self._lock, self._translated():
            some = self._connection.execute("SELECT * FROM rows WHERE kind = ? ORDER BY key", (kind.value,)).fetchall()
        return ((row.key, row.value) for row in map(self._checked, map(_row, some)))

    def verify(self) -> dict[str, int]:
        """Check every page and every row; how many there are of each kind. Raises E604 for the first that is
        damaged."""
        with self._lock, self._translated():
            told = [line for (line,) in self._connection.execute("PRAGMA quick_check(1)")]
            if told != ["ok"]:
                raise self._damaged("pages of the file", told[0])
            head = self._head()
            found: dict[str, list[int]] = {}
            for row in map(_row, self._connection.execute("SELECT * FROM rows NOT INDEXED")):
                self._checked(row)
                _count(found, row.kind, row.crc, 1)
        found.pop(RowKind.HEAD, None)
        if found != {kind: entry for kind, entry in head.items() if entry != [0, 0]}:
            raise self._damaged("the count of its rows", str({kind: entry[0] for kind, entry in found.items()}))
        return {kind: entry[0] for kind, entry in found.items()}

    def damaged(self) -> list[Row]:
        """Every row that is not as it was written."""
        with self._lock, self._translated():
            rows = map(_row, self._connection.execute("SELECT * FROM rows NOT INDEXED"))
            return [row for row in rows if not row.is_whole]

    def drop(self, damaged: Row) -> None:
        """Remove a damaged row and count anew. Raises E604 if anything else is damaged too."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            expected = self._head()
            head: dict[str, list[int]] = {}
            for row in map(_row, self._connection.execute("SELECT * FROM rows NOT INDEXED").fetchall()):
                if row.number != damaged.number and row.kind != RowKind.HEAD:
                    _count(head, self._checked(row).kind, row.crc, 1)
            others = {kind: entry for kind, entry in expected.items() if kind != damaged.kind and entry != [0, 0]}
            left = head.get(damaged.kind, [0, 0])
            if {kind: one for kind, one in head.items() if kind != damaged.kind} != others or (
                left[0] + 1 != expected.get(damaged.kind, [0, 0])[0]
            ):
                self._connection.execute("ROLLBACK")
                raise self._damaged("the count of its rows", "more than this row is missing")
            self._connection.execute("DELETE FROM rows WHERE id = ?", (damaged.number,))
            self._put(RowKind.HEAD, b"", _packed(head))
            self._commit()

    def close(self) -> None:
        with self._looking:
            if self._reader is not None:
                self._reader.close()
        with self._lock:
            self._connection.close()

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA trusted_schema = OFF")
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise self._damaged("its first page", "not a journal of SAGE")
        if version > FORMAT:
            raise StorageError(
                "E605", "a newer SAGE wrote this", at=str(self.path), got=f"format {version}",
                expected=f"at most {FORMAT}", try_="that SAGE, or another job directory",
            )  # fmt: skip
        listed = self._connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        if {(kind, name): sql for kind, name, sql in listed} != _SCHEMA or version != FORMAT:
            raise self._damaged("its schema", str([name for _, name, _ in listed]))
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    def _commit(self) -> None:
        self._connection.execute("COMMIT")

    def _check_epoch(self) -> None:
        if self._epoch is None:
            return
        found = self._find(RowKind.META, b"epoch")
        if found is None or int(self._checked(found).value) != self._epoch:
            raise StorageError(
                "E603", "a later run has taken over this job", at=str(self.path.parent),
                got=f"run {self._epoch}", try_="nothing: the other run goes on",
            )  # fmt: skip

    def _change(self, change: Change, head: dict[str, list[int]]) -> None:
        if change.once and change.value is not None:
            crc = checksum(change.kind, change.key, change.value)
            row = (change.kind.value, change.key, change.value, crc)
            _count(head, change.kind, crc, self._connection.execute(_ADD, row).rowcount)
            return
        before = self._find(change.kind, change.key)
        if before is not None:
            _count(head, change.kind, self._checked(before).crc, -1)
        if change.value is None:
            self._connection.execute("DELETE FROM rows WHERE kind = ? AND key = ?", (change.kind.value, change.key))
        else:
            _count(head, change.kind, self._put(change.kind, change.key, change.value), 1)

    def _put(self, kind: RowKind, key: bytes, value: bytes) -> int:
        crc = checksum(kind, key, value)
        self._connection.execute(_PUT, (kind.value, key, value, crc))
        return crc

    def _find(self, kind: RowKind, key: bytes) -> Row | None:
        return _found(self._connection, kind, key)

    def _head(self) -> dict[str, list[int]]:
        found = self._find(RowKind.HEAD, b"")
        if found is None:
            (others,) = self._connection.execute("SELECT count(*) FROM rows").fetchone()
            if others:
                raise self._damaged("the count of its rows", "missing")
            return {}
        head: dict[str, list[int]] = json.loads(self._checked(found).value)
        return head

    def _checked(self, row: Row) -> Row:
        if not row.is_whole:
            raise self._damaged(f"row {row.number} ({row.kind})", "another checksum")
        return row

    def _damaged(self, what: str, got: str) -> StorageError:
        return StorageError(
            "E604", "a journal is damaged", at=f"{self.path}, {what}", got=got,
            try_=f"sage job verify {self.path.parent}",
        )  # fmt: skip

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with _translated(self.path):
            yield


@contextmanager
def _translated(path: Path) -> Iterator[None]:
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


def _found(connection: sqlite3.Connection, kind: RowKind, key: bytes) -> Row | None:
    found = connection.execute("SELECT * FROM rows WHERE kind = ? AND key = ?", (kind.value, key)).fetchone()
    return None if found is None else _row(found)


def _row(columns: tuple[Any, ...]) -> Row:
    number, kind, key, value, crc = columns
    if not (isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)):
        raise TypeError(f"row {number} has columns of other types")
    return Row(number, kind, key, value, crc)


def _count(head: dict[str, list[int]], kind: str, crc: int, rows: int) -> None:
    entry = head.setdefault(str(kind), [0, 0])
    entry[0] += rows
    entry[1] = (entry[1] + rows * crc) % _MODULO


def _packed(head: dict[str, list[int]]) -> bytes:
    return json.dumps(head, sort_keys=True).encode()
