"""What the SQL sink does with its database."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sage.connectors.cells import CHECKED
from sage.connectors.json_text import to_json_cell
from sage.connectors.output_errors import check_writable
from sage.connectors.sql_errors import row_errors, sqlalchemy, translated
from sage.connectors.sql_target import Target
from sage.errors import RecordError, SinkError
from sage.flow.sink import Rejected, Writer

if TYPE_CHECKING:  # optional
    from sqlalchemy import Connection, Table

TAKEN = "sage_taken"
CONNECT_TIMEOUT_S = 10
BUSY_TIMEOUT_S = 30
Row = dict[str, Any]


class Database:
    """The database of a sink, with at most one connection, which is made when it is needed."""

    def __init__(self, url: str, target: Target) -> None:
        alchemy = sqlalchemy()
        self.target = target
        try:
            address = alchemy.engine.make_url(url)
        except alchemy.exc.ArgumentError as error:
            raise SinkError("E551", "this is not the address of a database", at=f"table {target.name!r}") from error
        self.place = f"{address.render_as_string(hide_password=True)}, table {target.name!r}"
        self._dialect = address.get_backend_name()
        if self._dialect not in ("sqlite", "postgresql"):
            what = "SAGE knows how to write a row once in SQLite and PostgreSQL only"
            raise SinkError("E551", what, at=self.place, got=self._dialect)
        with translated(self.place):
            self._engine = _engine(address, self._dialect)
        self._file = address.database if self._dialect == "sqlite" else None
        self._connection: Connection | None = None

    def check(self) -> None:
        """Raise `SinkError` if the database cannot be reached, or its table lacks a column or an index."""
        if self._file is not None and not os.path.exists(self._file):
            check_writable(self._file)
            return
        with translated(self.place):
            self._found(self.target.columns or ())

    def prepare(self, first: Row) -> Table:
        """The table, made for records like `first` if it is not there."""
        alchemy = sqlalchemy()
        columns = list(first) if self.target.columns is None else self.target.columns
        with translated(self.place):
            table: Table | None = self._found(columns)
            if table is None:
                key = (
                    [] if self.target.key is None else [alchemy.Column(self.target.key, alchemy.Text, primary_key=True)]
                )
                others = [
                    alchemy.Column(name, _type_of(first.get(name)), primary_key=name in self.target.replace)
                    for name in columns
                ]
                made: Table = alchemy.Table(self.target.name, alchemy.MetaData(), *key, *others)
                table = self._made(made)
            if self.target.key is None:
                self._made(self.taken)
        return table

    @property
    def taken(self) -> Table:
        """The table of the rids that are not kept beside their rows."""
        alchemy = sqlalchemy()
        names = [alchemy.Column(name, alchemy.Text, primary_key=True) for name in ("sink", "rid")]
        table: Table = alchemy.Table(TAKEN, alchemy.MetaData(), *names)
        return table

    def insert(self, table: Table) -> Any:
        """An insert of the database's own kind, which can say what to do where a row is there already."""
        import sqlalchemy.dialects.postgresql
        import sqlalchemy.dialects.sqlite

        dialects = sqlalchemy.dialects
        return (dialects.sqlite if self._dialect == "sqlite" else dialects.postgresql).insert(table)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing. After an error of the connection the next one is made anew."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            if self._connection.invalidated:
                self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlalchemy().exc.SQLAlchemyError):  # it may be broken already
                connection.close()

    def _made(self, table: Table) -> Table:
        with self.transaction() as connection:
            table.create(connection, checkfirst=True)
        return table

    def _found(self, columns: Sequence[str]) -> Table | None:
        """The table as it is in the database, if it is."""
        alchemy = sqlalchemy()
        with self.transaction() as connection:
            try:
                table: Table = alchemy.Table(self.target.name, alchemy.MetaData(), autoload_with=connection)
            except alchemy.exc.NoSuchTableError:
                return None
            unique = [[column.name for column in table.primary_key]]
            for index in alchemy.inspect(connection).get_indexes(self.target.name):
                unique += [list(index["column_names"])] if index["unique"] else []
            for rule in alchemy.inspect(connection).get_unique_constraints(self.target.name):
                unique.append(list(rule["column_names"]))
        names = [] if self.target.key is None else [self.target.key]
        missing = [name for name in (*names, *columns, *self.target.replace) if name not in table.columns]
        if missing:
            expected = ", ".join(missing)
            raise SinkError(
                "E554", "the table lacks columns", at=self.place, got=list(table.columns.keys()), expected=expected
            )
        needed = names or list(self.target.replace)
        if needed and sorted(needed) not in [sorted(one) for one in unique]:
            try_ = f"CREATE UNIQUE INDEX ON {self.target.name} ({', '.join(needed)})"
            raise SinkError("E554", "these columns are not unique", at=self.place, got=needed, try_=try_)
        return table


class SQLWriter(Writer):
    """Writes each batch in a transaction of its own. Closes `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._target = database.target
        self._table: Table | None = None
        self._json: set[str] = set()

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected: list[Rejected] = []
        rows: list[tuple[int, str, Row]] = []
        for index, (record, rid) in enumerate(zip(records, rids, strict=True)):
            try:
                rows.append((index, rid, self._row(record)))
            except RecordError as error:
                rejected.append(Rejected(index, error))
        return [*rejected, *self._store(rows)] if rows else rejected

    def commit(self) -> None:
        self._database.close()

    def abort(self) -> str | None:
        self._database.close()
        return None if self._table is None else f"{self._database.place} (a new run adds what is missing)"

    def _store(self, rows: list[tuple[int, str, Row]]) -> list[Rejected]:
        with translated(self._database.place):
            try:
                with self._database.transaction() as connection:
                    self._apply(connection, [(rid, row) for _, rid, row in rows])
                return []
            except row_errors():  # somewhere in the batch, and all of it was rolled back: row by row, then
                with self._database.transaction() as connection:
                    return list(self._store_singly(connection, rows))

    def _store_singly(self, connection: Connection, rows: list[tuple[int, str, Row]]) -> Iterator[Rejected]:
        for index, rid, row in rows:
            try:
                with connection.begin_nested():
                    self._apply(connection, [(rid, row)])
            except row_errors() as error:
                reason = str(error.__cause__ or error).strip().partition("\n")[0]
                yield Rejected(index, RecordError("E409", f"the database refuses the row ({reason})", at=rid, got=row))

    def _apply(self, connection: Connection, rows: Sequence[tuple[str, Row]]) -> None:
        """Have the effect of each rid that had none."""
        assert self._table is not None
        insert = self._database.insert(self._table)
        key = self._target.key
        if key is not None:
            once = insert.on_conflict_do_nothing(index_elements=[key])
            connection.execute(once, [{key: rid, **row} for rid, row in rows])
            return
        new = self._take(connection, [rid for rid, _ in rows])
        fresh = [row for rid, row in rows if rid in new]
        if self._target.replace and fresh:
            others = {name: insert.excluded[name] for name in fresh[0] if name not in self._target.replace}
            insert = insert.on_conflict_do_update(index_elements=list(self._target.replace), set_=others)
        if fresh:
            connection.execute(insert, fresh)

    def _take(self, connection: Connection, rids: Sequence[str]) -> set[str]:
        """Those that were not taken before."""
        taken = self._database.taken
        insert = self._database.insert(taken).on_conflict_do_nothing().returning(taken.c.rid)
        rows = [{"sink": self._target.name, "rid": rid} for rid in dict.fromkeys(rids)]
        return set(connection.execute(insert, rows).scalars())

    def _row(self, record: Any) -> Row:
        if not isinstance(record, dict) or not record or not all(isinstance(name, str) for name in record):
            raise RecordError("E406", "not a row", got=record, expected="a dict with text keys, not empty")
        if self._table is None:
            table = self._database.prepare(record)
            self._json = {column.name for column in table.columns if isinstance(column.type, sqlalchemy().JSON)}
            self._columns = list(record) if self._target.columns is None else list(self._target.columns)
            self._table = table
        if not record.keys() <= set(self._columns):
            unknown, expected = sorted(record.keys() - set(self._columns)), ", ".join(self._columns)
            raise RecordError("E406", "a key that is no column", got=unknown, expected=expected, try_="columns=[...]")
        return {name: self._cell(name, record.get(name)) for name in self._columns}

    def _cell(self, name: str, value: Any) -> Any:
        if (checked := CHECKED.get(type(value))) is not None:
            return checked(value, name)
        return to_json_cell(value) if isinstance(value, list | tuple | dict) and name not in self._json else value


def _engine(address: Any, dialect: str) -> Any:
    alchemy = sqlalchemy()
    sqlite = {"check_same_thread": False, "timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    arguments = sqlite if dialect == "sqlite" else {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = alchemy.create_engine(
        address, poolclass=alchemy.pool.NullPool, hide_parameters=True, connect_args=arguments
    )
    if dialect == "sqlite":  # Python's sqlite3 begins no transaction before a savepoint, and takes its lock late
        from sage.connectors.sqlite_table import SAFE

        alchemy.event.listen(engine, "connect", lambda connection, _: connection.execute(SAFE))
        alchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _type_of(value: Any) -> Any:
    """The type of a column whose first value this is."""
    alchemy = sqlalchemy()
    types = {bool: alchemy.Boolean, int: alchemy.BigInteger, float: alchemy.Double, bytes: alchemy.LargeBinary}
    if isinstance(value, list | tuple | dict):
        return alchemy.JSON()
    return types.get(type(value), alchemy.Text)()
