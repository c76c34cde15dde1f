"""Checked rows in one SQLite file: each row has a checksum, and one row has the count and the sum of all others.

SQLite finds torn writes, but not a bit that flips on the disk, nor a page that is of another moment than its
neighbours. A row that is not what was written, one too many or one too few is E604 here, and never a value.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sage.errors import StorageError
from sage.runtime.durability.disk import sync_folder, translated
from sage.runtime.durability.row import Change, Head, Row, RowKind, checksum, count, packed, row_of

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
        self._seen: tuple[int, Head] | None = None
        """The head, and what SQLite counts up when another connection changes something."""
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
        with translated(path):
            for end in ("", "-journal", "-wal", "-shm"):
                Path(f"{draft}{end}").unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                for statement in (
                    "BEGIN",
                    *_SCHEMA.values(),
                    f"PRAGMA application_id = {APPLICATION}",
                    f"PRAGMA user_version = {FORMAT}",
                    "COMMIT",
                ):
                    connection.execute(statement)
            finally:
                connection.close()
        rows = cls(draft)
        try:
            rows.apply(changes)
            with translated(path):  # to close does the same, but says nothing where it fails
                rows._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            rows.close()
        with translated(path):
            os.rename(draft, path)
            sync_folder(path.parent)

    def apply(self, changes: list[Change]) -> None:
        """All of them or none, and on the disk when this returns."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                head = self._current()
                self._add([change for change in changes if change.once], head)
                for change in changes:
                    if not change.once:
                        self._change(change, head)
                self._put(RowKind.HEAD, b"", packed(head))
                self._commit()
            except BaseException:
                self._seen = None
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
        return ((row.key, row.value) for row in map(self._checked, map(row_of, some)))

    def verify(self) -> dict[str, int]:
        """Check every page and every row; how many there are of each kind. Raises E604 for the first that is
        damaged."""
        with self._lock, self._translated():
            told = [line for (line,) in self._connection.execute("PRAGMA quick_check(1)")]
            if told != ["ok"]:
                raise self._damaged("pages of the file", told[0])
            head = self._head()
            found: Head = {}
            for row in map(row_of, self._connection.execute("SELECT * FROM rows NOT INDEXED")):
                self._checked(row)
                count(found, row.kind, row.crc, 1)
        found.pop(RowKind.HEAD, None)
        if found != {kind: entry for kind, entry in head.items() if entry != [0, 0]}:
            raise self._damaged("the count of its rows", str({kind: entry[0] for kind, entry in found.items()}))
        return {kind: entry[0] for kind, entry in found.items()}

    def damaged(self) -> list[Row]:
        """Every row that is not as it was written."""
        with self._lock, self._translated():
            rows = map(row_of, self._connection.execute("SELECT * FROM rows NOT INDEXED"))
            return [row for row in rows if not row.is_whole]

    def drop(self, damaged: Row) -> None:
        """Remove a damaged row and count anew. Raises E604 if anything else is damaged too."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            self._seen = None
            expected = self._head()
            head: Head = {}
            for row in map(row_of, self._connection.execute("SELECT * FROM rows NOT INDEXED").fetchall()):
                if row.number != damaged.number and row.kind != RowKind.HEAD:
                    count(head, self._checked(row).kind, row.crc, 1)
            others = {kind: entry for kind, entry in expected.items() if kind != damaged.kind and entry != [0, 0]}
            left = head.get(damaged.kind, [0, 0])
            if {kind: one for kind, one in head.items() if kind != damaged.kind} != others or (
                left[0] + 1 != expected.get(damaged.kind, [0, 0])[0]
            ):
                self._connection.execute("ROLLBACK")
                raise self._damaged("the count of its rows", "more than this row is missing")
            self._connection.execute("DELETE FROM rows WHERE id = ?", (damaged.number,))
            self._put(RowKind.HEAD, b"", packed(head))
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

    def _current(self) -> Head:
        """The head, of the right epoch; read again only where somebody else has changed it."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if self._seen is None or self._seen[0] != version:
            self._check_epoch()
            self._seen = version, self._head()
        return self._seen[1]

    def _add(self, changes: Sequence[Change], head: Head) -> None:
        """Those that are not there yet."""
        rows = [
            (c.kind.value, c.key, c.value, checksum(c.kind, c.key, c.value)) for c in changes if c.value is not None
        ]
        if len(rows) > 1:
            self._connection.execute("SAVEPOINT adding")
            if self._connection.executemany(_ADD, rows).rowcount == len(rows):
                for row in rows:
                    count(head, row[0], row[3], 1)
                rows = []
            else:
                self._connection.execute("ROLLBACK TO adding")
            self._connection.execute("RELEASE adding")
        for row in rows:
            count(head, row[0], row[3], self._connection.execute(_ADD, row).rowcount)

    def _change(self, change: Change, head: Head) -> None:
        before = self._find(change.kind, change.key)
        if before is not None:
            count(head, change.kind, self._checked(before).crc, -1)
        if change.value is None:
            self._connection.execute("DELETE FROM rows WHERE kind = ? AND key = ?", (change.kind.value, change.key))
        else:
            count(head, change.kind, self._put(change.kind, change.key, change.value), 1)

    def _put(self, kind: RowKind, key: bytes, value: bytes) -> int:
        crc = checksum(kind, key, value)
        self._connection.execute(_PUT, (kind.value, key, value, crc))
        return crc

    def _find(self, kind: RowKind, key: bytes) -> Row | None:
        return _found(self._connection, kind, key)

    def _head(self) -> Head:
        found = self._find(RowKind.HEAD, b"")
        if found is None:
            (others,) = self._connection.execute("SELECT count(*) FROM rows").fetchone()
            if others:
                raise self._damaged("the count of its rows", "missing")
            return {}
        head: Head = json.loads(self._checked(found).value)
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
        with translated(self.path):
            yield


def _found(connection: sqlite3.Connection, kind: RowKind, key: bytes) -> Row | None:
    found = connection.execute("SELECT * FROM rows WHERE kind = ? AND key = ?", (kind.value, key)).fetchone()
    return None if found is None else row_of(found)
