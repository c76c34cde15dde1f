"""The file of a key-value store: a table of entries, and one of the rids that have had their effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from sage import codec
from sage.connectors.cells import sound_text
from sage.connectors.sqlite_table import Table
from sage.errors import RecordError, SageError, SinkError
from sage.flow.sink import Rejected, Writer

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entries (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS taken (rid TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
)
_TAKE = "INSERT INTO taken VALUES (?) ON CONFLICT DO NOTHING"
_PUT = "INSERT INTO entries VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_BUSY_TIMEOUT_S = 30.0


class Entries(Mapping[str, Any]):
    """What is in the file. Raises `SinkError` if it cannot be read."""

    def __init__(self, path: str) -> None:
        self._table = _opened(path, create=False)
        try:
            _check(self._table)
        except BaseException:
            self._table.close()
            raise

    def __getitem__(self, key: str) -> Any:
        found = self._asked("SELECT value FROM entries WHERE key = ?", key)
        if not found:
            raise KeyError(key)
        return codec.decode(found[0][0])

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._asked("SELECT key FROM entries ORDER BY key"))

    def __len__(self) -> int:
        ((number,),) = self._asked("SELECT count(*) FROM entries")
        return int(number)

    def close(self) -> None:
        self._table.close()

    def _asked(self, question: str, *values: str) -> list[Any]:
        with self._table.translated():
            return self._table.connection.execute(question, values).fetchall()


class EntryWriter(Writer):
    """Puts entries, by rid or by a field of the record."""

    def __init__(self, path: str, key: str | None) -> None:
        self._table = _opened(path, create=True)
        self._key = key
        self._wrote = False
        try:
            self._prepare()
        except BaseException:
            self._table.close()
            raise

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected: list[Rejected] = []
        with self._table.translated(), self._table.transaction():
            for index, (record, rid) in enumerate(zip(records, rids, strict=True)):
                try:
                    self._put(record, rid)
                except SageError as error:
                    rejected.append(Rejected(index, error))
        self._wrote = True
        return rejected

    def commit(self) -> None:
        self._table.close()

    def abort(self) -> str | None:
        self._table.close()
        return f"{self._table.place} (a new run adds what is missing)" if self._wrote else None

    def _prepare(self) -> None:
        with self._table.translated():
            if not self._table.connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
                with self._table.transaction():
                    for statement in _SCHEMA:
                        self._table.connection.execute(statement)
        _check(self._table)

    def _put(self, record: Any, rid: str) -> None:
        key = sound_text(rid if self._key is None else _key_of(record, self._key), self._key)
        value = codec.encode(record)
        if self._key is None or self._table.connection.execute(_TAKE, (rid,)).rowcount:
            self._table.connection.execute(_PUT, (key, value))


def _key_of(record: Any, name: str) -> str:
    key = record.get(name) if isinstance(record, dict) else None
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise RecordError("E406", "no key", at=name, got=record, expected=f"a dict with a text or a number as {name!r}")
    return str(key)


def _opened(path: str, *, create: bool) -> Table:
    return Table(path, "entries", "key", _BUSY_TIMEOUT_S, create=create)


def check_file(path: str) -> None:
    """Raise `SinkError` if it is of something else; a run that was killed may have left it empty."""
    with closing(_opened(path, create=False)) as table:
        _check(table, or_empty=True)


def _check(table: Table, *, or_empty: bool = False) -> None:
    with table.translated():
        found = {name for (name,) in table.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not {"entries", "taken"} <= found and (found or not or_empty):
        raise SinkError("E554", "this is no key-value file of SAGE", at=table.place, got=sorted(found))
