"""What the SQLite sink does with its database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sage.connectors.cells import CHECKED
from sage.connectors.json_text import to_json_cell
from sage.errors import RecordError, SinkError
from sage.flow.sink import Rejected, Writer

_ROW_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


SAFE = "PRAGMA synchronous = EXTRA"
"""A commit ends with the removal of a file, and only so is that safe too: else a loss of power takes it back."""


class Table:
    """One table in an open database. Every error of SQLite leaves as a `SinkError` that names both."""

    def __init__(self, path: str, name: str, key: str, busy_timeout_s: float, *, create: bool) -> None:
        self.place = f"{path}, table {name!r}"
        self._name = name
        self._key = key
        self._busy_timeout_s = busy_timeout_s
        uri = f"file:{quote(os.fsencode(os.path.realpath(path)))}?mode={'rwc' if create else 'rw'}"
        with self.translated():
            self.connection = sqlite3.connect(
                uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            self.connection.execute(SAFE)

    def check(self, columns: Sequence[str]) -> None:
        """Raise `SinkError` if the table is there and lacks the key, its uniqueness, or one of `columns`."""
        with self.translated():
            table = _quoted(self._name)
            found = [row[1].lower() for row in self.connection.execute(f"PRAGMA table_info({table})")]
            unique = [row[1] for row in self.connection.execute(f"PRAGMA index_list({table})") if row[2] and not row[4]]
            keys = [
                [row[2] for row in self.connection.execute(f"PRAGMA index_info({_quoted(name)})")] for name in unique
            ]
        if not found:
            return
        missing = [name for name in (self._key, *columns) if name.lower() not in found]
        if missing:
            raise SinkError("E554", "the table lacks columns", at=self.place, got=found, expected=", ".join(missing))
        if [self._key.lower()] not in [[name.lower() for name in key if name] for key in keys]:
            try_ = f"CREATE UNIQUE INDEX {self._name}_{self._key} ON {self._name}({self._key})"
            raise SinkError("E554", f"the column {self._key!r} is not unique", at=self.place, try_=try_)

    def prepare(self, columns: Sequence[str]) -> str:
        """Make the table if it is not there, check it if it is; returns the statement that adds a row."""
        names = [self._key, *columns]
        if len({name.lower() for name in names}) < len(names):
            what = "two columns have the same name (case does not count, and the rid has a column too)"
            raise SinkError("E554", what, at=self.place, got=names, try_="key='another name', or columns=[...]")
        key, *others = map(_quoted, names)
        with self.translated():
            definitions = ", ".join([f"{key} TEXT NOT NULL PRIMARY KEY", *others])
            self.connection.execute(f"CREATE TABLE IF NOT EXISTS {_quoted(self._name)} ({definitions})")
        self.check(columns)
        marks = ", ".join("?" * len(names))
        into = f"{_quoted(self._name)} ({', '.join([key, *others])})"
        return f"INSERT INTO {into} VALUES ({marks}) ON CONFLICT ({key}) DO NOTHING"

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn an error of SQLite into a `SinkError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, with the lock for writing from the start."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _error(self, error: sqlite3.Error) -> SinkError:
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # absent where the module itself raised
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            got = f"another program is writing to it for more than {self._busy_timeout_s} s"
            return SinkError("E555", "the database is locked", at=self.place, got=got, try_="wait for it, or end it")
        if primary == sqlite3.SQLITE_FULL:
            return SinkError("E552", "no space left for the output", at=self.place, try_="make room, then run again")
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return SinkError("E551", "the database cannot be written to", at=self.place, got=str(error))
        if primary == sqlite3.SQLITE_NOTADB:
            return SinkError("E554", "this is not a SQLite database", at=self.place, try_="another path")
        return SinkError("E556", "the database cannot be written", at=self.place, got=str(error))


class TableWriter(Writer):
    """Adds a row per record, and knows its columns from the first batch on. Closes `table`."""

    def __init__(self, table: Table, columns: Sequence[str] | None) -> None:
        self._table = table
        self._columns: tuple[str, ...] = ()
        self._insert: str | None = None
        if columns is not None:
            self._prepare(columns)

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected: list[Rejected] = []
        rows: list[tuple[int, list[Any]]] = []
        for index, (record, rid) in enumerate(zip(records, rids, strict=True)):
            try:
                rows.append((index, [rid, *self._cells(record)]))
            except RecordError as error:
                rejected.append(Rejected(index, error))
        if rows:
            rejected += self._store(rows)
        return rejected

    def commit(self) -> None:
        self._table.close()

    def abort(self) -> str | None:
        self._table.close()
        return None if self._insert is None else f"{self._table.place} (a new run adds what is missing)"

    def _store(self, rows: list[tuple[int, list[Any]]]) -> list[Rejected]:
        assert self._insert is not None
        with self._table.translated():
            try:
                with self._table.transaction():
                    self._table.connection.executemany(self._insert, [cells for _, cells in rows])
                return []
            except _ROW_ERRORS:  # somewhere in the batch, and all of it was rolled back: row by row, then
                with self._table.transaction():
                    return list(self._store_singly(self._insert, rows))

    def _store_singly(self, insert: str, rows: list[tuple[int, list[Any]]]) -> Iterator[Rejected]:
        for index, cells in rows:
            try:
                self._table.connection.execute(insert, cells)
            except _ROW_ERRORS as error:
                what = f"the database refuses the row ({error})"
                yield Rejected(index, RecordError("E409", what, at=cells[0], got=cells[1:]))

    def _cells(self, record: Any) -> list[Any]:
        if not isinstance(record, dict) or not all(isinstance(key, str) for key in record):
            raise RecordError("E406", "not a row", got=record, expected="a dict with text keys")
        if self._insert is None:
            self._prepare(list(record))
        if not record.keys() <= set(self._columns):
            unknown = sorted(record.keys() - set(self._columns))
            expected = ", ".join(self._columns)
            raise RecordError("E406", "a key that is no column", got=unknown, expected=expected, try_="columns=[...]")
        return [_cell(record.get(column), column) for column in self._columns]

    def _prepare(self, columns: Sequence[str]) -> None:
        self._insert = self._table.prepare(columns)
        self._columns = tuple(columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(value: Any, column: str) -> Any:
    """`value` as SQLite stores it; what it would change or drop without a word is refused."""
    store = _STORED.get(type(value))
    return store(value, column) if store else to_json_cell(value)


_STORED: Mapping[type, Callable[[Any, str], Any]] = {
    **CHECKED,
    type(None): lambda value, column: value,
    bool: lambda value, column: int(value),
    bytes: lambda value, column: value,
}
