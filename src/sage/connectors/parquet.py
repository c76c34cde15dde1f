"""Parquet: a dict a row. Needs pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sage.connectors.files import FileSource, find_files
from sage.connectors.output import FileSink, FileWriter, OutputFile, translated
from sage.errors import MissingDependency, RecordError, SinkError, SourceError
from sage.flow.sink import Rejected, Sink, SinkContext, Writable
from sage.flow.source import Chunk, Reader

READ_ROWS = 1024
ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True)
class Parquet(FileSource, Writable):
    """A Parquet file, or all that a glob finds: each row is a dict. As a sink, one file of dicts.

    A position is the number of the row. Writing, the schema is that of the records until the first row group is full
    (65,536 rows; numbers widen, columns may be added), and fixed from there on; or it is given.
    """

    schema: Any = None
    """A ``pyarrow.Schema`` to write, for when it must not depend on the first records."""

    def check(self) -> None:
        _pyarrow()
        super().check()
        for path in find_files(os.fspath(self.path)):
            _open(path).close()

    def open_file(self, path: str, position: int) -> Reader:
        return ParquetReader(path, position)

    def sink(self) -> Sink:
        return ParquetSink(self.path, self.schema)


class ParquetReader(Reader):
    """The rows of one file, a small batch of columns at a time."""

    def __init__(self, path: str, position: int) -> None:
        self._path = path
        self._file = _open(path)
        self._next = position
        self._rows: list[Any] = []
        self._taken = 0
        self._batches = self._batches_from(position)

    def read(self, max_records: int) -> Chunk | None:
        if self._taken == len(self._rows):
            self._rows, self._taken = self._next_rows(), 0
        records = self._rows[self._taken : self._taken + max_records]
        self._taken += len(records)
        start, self._next = self._next, self._next + len(records)
        return Chunk(records, range(start, self._next)) if records else None

    def close(self) -> None:
        self._file.close()

    def _next_rows(self) -> list[Any]:
        arrow = _pyarrow()
        try:
            for batch in self._batches:
                if batch.num_rows:
                    rows: list[Any] = batch.to_pylist()
                    return rows
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise _broken(self._path, error) from error
        return []

    def _batches_from(self, position: int) -> Iterator[Any]:
        metadata = self._file.metadata
        first = 0
        while first < metadata.num_row_groups and position >= metadata.row_group(first).num_rows:
            position -= metadata.row_group(first).num_rows
            first += 1
        groups = list(range(first, metadata.num_row_groups))
        for batch in self._file.iter_batches(READ_ROWS, row_groups=groups) if groups else ():
            skipped = min(position, batch.num_rows)
            position -= skipped
            yield batch.slice(skipped)


@dataclass(frozen=True)
class ParquetSink(FileSink):
    """Writes each record, which must be a dict, as one row."""

    schema: Any = None
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_commit"

    def check(self) -> None:
        _pyarrow()
        super().check()

    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        if context.append and file.has_content:
            return ParquetWriter(file, self.schema, existing=file.path)
        return ParquetWriter(file, self.schema)


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
        rejected: list[Rejected] = []
        try:
            self._add(records)
        except RecordError:
            for index, record in enumerate(records):
                try:
                    self._add([record])
                except RecordError as error:
                    rejected.append(Rejected(index, error))
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()
        return rejected

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

    def _add(self, records: Sequence[Any]) -> None:
        """Collect all of `records`, or none and raise `RecordError`."""
        arrow = _pyarrow()
        for record in records:
            self._check_keys(record)
        try:
            if self._fixed:
                table = arrow.Table.from_pylist(records, schema=self._schema)
            else:
                table = arrow.Table.from_pylist(records)
                known = [] if self._schema is None else [self._schema]
                self._schema = arrow.unify_schemas([*known, table.schema], promote_options="permissive")
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            expected = "no schema yet" if self._schema is None else ", ".join(str(field) for field in self._schema)
            raise RecordError(
                "E406", f"the record does not fit the table ({error})", got=records[0], expected=expected
            ) from error
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._rows += table.num_rows

    def _check_keys(self, record: Any) -> None:
        if not isinstance(record, dict) or not record or not all(isinstance(key, str) for key in record):
            raise RecordError("E406", "not a row", got=record, expected="a dict with text keys, not empty")
        if self._fixed and not record.keys() <= set(self._schema.names):
            unknown = sorted(record.keys() - set(self._schema.names))
            expected = ", ".join(self._schema.names)
            raise RecordError("E406", "a key that is no column", got=unknown, expected=expected)

    def _flush(self) -> None:
        arrow = _pyarrow()
        import pyarrow.parquet

        with translated(self.file.path):
            if self._writer is None:
                self._schema = arrow.schema([]) if self._schema is None else self._schema
                self._writer = pyarrow.parquet.ParquetWriter(self.file.stream(), self._schema)
                self._fixed = True
            if self._pending:
                table = arrow.concat_tables(self._pending, promote_options="permissive")
                self._writer.write_table(table.select(self._schema.names).cast(self._schema))
        self._pending, self._pending_rows = [], 0

    def _finish(self) -> None:
        self._flush()
        with translated(self.file.path):
            self._writer.close()

    def _copy(self, existing: str) -> None:
        try:
            source = _open(existing)
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


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependency("pyarrow", "parquet", "reading and writing Parquet") from error
    return pyarrow


def _open(path: str) -> Any:
    arrow = _pyarrow()
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> SourceError:
    return SourceError("E307", "this is not a whole Parquet file", at=path, got=str(error), try_="make the file again")
