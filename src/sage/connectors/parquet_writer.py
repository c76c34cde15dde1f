"""Writing Parquet, and pyarrow, which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from sage.connectors.output import FileWriter
from sage.connectors.output_errors import translated
from sage.connectors.output_file import OutputFile
from sage.errors import MissingDependency, RecordError, SinkError, SourceError
from sage.flow.sink import Rejected

ROW_GROUP_ROWS = 65_536


class ParquetWriter(FileWriter):
    """Collects a row group, then writes it. What is collected is lost with the process, as all of the output is."""

    def __init__(self, file: OutputFile, schema: Any, existing: str | None = None) -> None:
        super().__init__(file)
        self._schema = schema
        self._fixed = schema is not None
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._rows = 0
        self._writer: Any = None
        if existing is not None:
            self._copy(existing)

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected = self._collected(records)
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()
        return rejected

    def take(self, table: Any) -> None:
        """Write rows that were collected before."""
        self._learn(table.schema)
        self._collect(table)
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def commit(self) -> None:
        self._finish()
        super().commit()

    def abort(self) -> str | None:
        if self._rows:
            with suppress(SinkError):  # no room for the end of the file, without which it cannot be read
                self._finish()
                return super().abort()
        self.file.discard()
        return None

    def _collected(self, records: Sequence[Any]) -> list[Rejected]:
        rejected: list[Rejected] = []
        try:
            self._add(records)
        except RecordError:
            for index, record in enumerate(records):
                try:
                    self._add([record])
                except RecordError as error:
                    rejected.append(Rejected(index, error))
        return rejected

    def _learn(self, schema: Any) -> None:
        """There are rows with this schema."""
        if not self._fixed:
            known = [] if self._schema is None else [self._schema]
            self._schema = load_arrow().unify_schemas([*known, schema], promote_options="permissive")

    def _collect(self, table: Any) -> None:
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._rows += table.num_rows

    def _add(self, records: Sequence[Any]) -> None:
        """Collect all of `records`, or none and raise `RecordError`."""
        arrow = load_arrow()
        for record in records:
            self._check_keys(record)
        try:
            if self._fixed:
                table = arrow.Table.from_pylist(records, schema=self._schema)
            else:
                names = dict.fromkeys(chain.from_iterable(records))  # `from_pylist` takes those of the first record
                table = arrow.Table.from_pydict({name: [record.get(name) for record in records] for name in names})
                self._learn(table.schema)
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            expected = "no schema yet" if self._schema is None else ", ".join(str(field) for field in self._schema)
            raise RecordError(
                "E406", f"the record does not fit the table ({error})", got=records[0], expected=expected
            ) from error
        self._collect(table)

    def _check_keys(self, record: Any) -> None:
        if not isinstance(record, dict) or not record or not all(isinstance(key, str) for key in record):
            raise RecordError("E406", "not a row", got=record, expected="a dict with text keys, not empty")
        if self._fixed and not record.keys() <= set(self._schema.names):
            unknown = sorted(record.keys() - set(self._schema.names))
            expected = ", ".join(self._schema.names)
            raise RecordError("E406", "a key that is no column", got=unknown, expected=expected)

    def _flush(self) -> None:
        arrow = load_arrow()
        import pyarrow.parquet

        with translated(self.file.path):
            if self._writer is None:
                self._schema = arrow.schema([]) if self._schema is None else self._schema
                self._writer = pyarrow.parquet.ParquetWriter(self.file.stream(), self._schema)
                self._fixed = True
            if self._pending:
                whole = [self._schema.empty_table(), *self._pending]  # rows may lack what came in other row groups
                table = arrow.concat_tables(whole, promote_options="permissive")
                self._writer.write_table(table.select(self._schema.names).cast(self._schema))
        self._pending, self._pending_rows = [], 0

    def _finish(self) -> None:
        self._flush()
        with translated(self.file.path):
            self._writer.close()

    def _copy(self, existing: str) -> None:
        try:
            source = open_parquet(existing)
        except SourceError as error:
            raise SinkError("E554", "the output that is there is not Parquet", at=existing, got=str(error)) from error
        try:
            if self._schema not in (None, source.schema_arrow):
                expected = str(self._schema)
                raise SinkError(
                    "E554", "the output has another schema", at=existing, got=source.schema_arrow, expected=expected
                )
            self._schema, self._fixed = source.schema_arrow, True
            for group in range(source.num_row_groups):
                self._pending = [source.read_row_group(group)]
                self._flush()
        finally:
            source.close()


def load_arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependency("pyarrow", "parquet", "reading and writing Parquet") from error
    return pyarrow


def open_parquet(path: str) -> Any:
    arrow = load_arrow()
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise broken(path, error) from error


def broken(path: str, error: Exception) -> SourceError:
    return SourceError("E307", "this is not a whole Parquet file", at=path, got=str(error), try_="make the file again")
