"""Parquet: a dict a row. Needs pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sage.connectors.files import FileSource, find_files
from sage.connectors.output import FileSink, FileWriter
from sage.connectors.output_file import OutputFile
from sage.connectors.parquet_spool import SpooledParquetWriter
from sage.connectors.parquet_writer import ParquetWriter, broken, load_arrow, open_parquet
from sage.flow.sink import Sink, SinkContext, Writable
from sage.flow.source import Chunk, Reader

READ_ROWS = 1024


@dataclass(frozen=True)
class Parquet(FileSource, Writable):
    """A Parquet file, or all that a glob finds: each row is a dict. As a sink, one file of dicts.

    A position is the number of the row. Writing, the schema is that of the records until the first row group is full
    (65,536 rows; numbers widen, columns may be added), and fixed from there on; or it is given.
    """

    schema: Any = None
    """A ``pyarrow.Schema`` to write, for when it must not depend on the first records."""

    def check(self) -> None:
        load_arrow()
        super().check()
        for path in find_files(os.fspath(self.path)):
            open_parquet(path).close()

    def open_file(self, path: str, position: int) -> Reader:
        return ParquetReader(path, position)

    def sink(self) -> Sink:
        return ParquetSink(self.path, self.schema)


class ParquetReader(Reader):
    """The rows of one file, a small batch of columns at a time."""

    def __init__(self, path: str, position: int) -> None:
        self._path = path
        self._file = open_parquet(path)
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
        arrow = load_arrow()
        try:
            for batch in self._batches:
                if batch.num_rows:
                    rows: list[Any] = batch.to_pylist()
                    return rows
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise broken(self._path, error) from error
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

    def check(self) -> None:
        load_arrow()
        super().check()

    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        existing = file.path if context.append and file.has_content else None
        kind = SpooledParquetWriter if context.job else ParquetWriter
        return kind(file, self.schema, existing)
