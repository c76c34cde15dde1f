"""A table of a SQLite database as a sink: one row per rid, however often it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sage.connectors.output_errors import check_writable
from sage.errors import PipelineError
from sage.flow.sink import Sink, SinkContext, Writer


@dataclass(frozen=True)
class SQLite(Sink):
    """Rows of `table` in the database file `path`; made if they are not there, always added to.

    Every batch is one transaction, in which a rid that is there already is passed over: a run that was killed is run
    again, and leaves each row once. So rows are visible at once, and those of a run that failed stay. The `key` column
    holds the rid. Other columns: `columns`, or the keys of the first record. Lists and dicts are JSON text; a key
    that is no column is refused. A row that breaks a constraint of the table is refused alone.
    """

    path: str | os.PathLike[str]
    table: str
    key: str = "rid"
    columns: Sequence[str] | None = None
    busy_timeout_s: float = 30.0
    """How long to wait for another program that writes, before giving up with E555."""
    idempotent: ClassVar[bool] = True
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_write"

    def __post_init__(self) -> None:
        for name in (self.table, self.key, *(self.columns or ())):
            if not name or "\0" in name or not name.isprintable():
                raise PipelineError("E217", "not a name for a table or column", at="SQLite", got=repr(name))
        if self.table.lower().startswith("sqlite_"):
            raise PipelineError("E217", "SQLite keeps such names to itself", at="SQLite", got=self.table)

    def check(self) -> None:
        from sage.connectors.sqlite_table import Table

        path = os.fspath(self.path)
        if not os.path.exists(path):
            check_writable(path)
            return
        table = Table(path, self.table, self.key, self.busy_timeout_s, create=False)
        try:
            table.check(self.columns or ())
        finally:
            table.close()

    def open(self, context: SinkContext) -> Writer:
        from sage.connectors.sqlite_table import Table, TableWriter

        table = Table(os.fspath(self.path), self.table, self.key, self.busy_timeout_s, create=True)
        try:
            return TableWriter(table, self.columns)
        except BaseException:
            table.close()
            raise
