"""A table of a database that SQLAlchemy reaches as a sink: one effect per rid, however often it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sage.connectors.sql_table import Database, SQLWriter
from sage.connectors.sql_target import Target
from sage.errors import PipelineError
from sage.flow.sink import Sink, SinkContext, Writer


@dataclass(frozen=True)
class SQL(Sink):
    """Rows of `table` in the database at `url` (``postgresql+psycopg://host/name``, ``sqlite:///file.db``), always
    added to. Needs SQLAlchemy, and a driver for the database.

    Every batch is one transaction, in which a rid that was written before is passed over. The rid is in the column
    `key`; or, with ``key=None``, it is kept apart, in the table ``sage_taken``: for a table that has no place for it,
    and for rows that `replace` those that are there. A table that is not there is made, its columns with the types of
    the first record. Lists and dicts are JSON. A row that the database refuses is refused alone.
    """

    url: str = field(repr=False)
    table: str
    key: str | None = "rid"
    replace: Sequence[str] = ()
    """Columns that say which row is meant: a record takes the place of the row with the same values. With ``key=None``,
    and a unique index or primary key over these columns."""
    columns: Sequence[str] | None = None
    """Those to write; default: the keys of the first record."""
    idempotent: ClassVar[bool] = True
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_write"

    def __post_init__(self) -> None:
        for name in (self.table, *((self.key,) if self.key is not None else ()), *self.replace, *(self.columns or ())):
            if not name or not name.isprintable():
                raise PipelineError("E217", "not a name for a table or column", at="SQL", got=repr(name))
        if self.replace and self.key is not None:
            what = "a row that is replaced cannot keep the ids of all records that it was made from"
            raise PipelineError("E217", what, at=f"SQL, table {self.table!r}", got=self.replace, try_="key=None")

    def check(self) -> None:
        database = Database(self.url, self._target)
        try:
            database.check()
        finally:
            database.close()

    def open(self, context: SinkContext) -> Writer:
        return SQLWriter(Database(self.url, self._target))

    @property
    def _target(self) -> Target:
        return Target(self.table, self.key, tuple(self.replace), self.columns)
