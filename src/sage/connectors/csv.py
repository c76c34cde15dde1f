"""CSV: a dict of text a row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sage.connectors.cells import sound_text
from sage.connectors.csv_rows import CsvFormat, CsvReader, to_record
from sage.connectors.files import FileSource, find_files
from sage.connectors.input import InputFile
from sage.connectors.json_text import to_json_cell
from sage.connectors.lines import MAX_RECORD_BYTES
from sage.connectors.output import FileSink, FileWriter
from sage.connectors.output_file import OutputFile
from sage.errors import PipelineError, RecordError, SinkError, SourceError
from sage.flow.sink import Rejected, Sink, SinkContext, Writable


@dataclass(frozen=True)
class Csv(FileSource, Writable):
    """A CSV file, or all that a glob finds: each row is a dict of `str`. As a sink, one file of dicts.

    UTF-8, also compressed (``.gz``). Quoted cells may hold line breaks; a position is the byte offset of the row's
    first line. Blank lines are skipped. A row that is broken or of another length than the header is a fault. Reading
    from a position passes over all that lies before it, since a quote may be open anywhere.

    Writing, `None` is an empty cell, lists and dicts are JSON; a key that is no column is refused rather than dropped.
    Raises the limit of the csv module for the size of a cell to `max_record_bytes`, for the process.
    """

    delimiter: str = ","
    quotechar: str = '"'
    columns: Sequence[str] | None = None
    """The names of the columns. By default those of the header row or, writing, the keys of the first record."""
    header: bool = True
    """Whether the first row has the names."""
    max_record_bytes: int = MAX_RECORD_BYTES

    def __post_init__(self) -> None:
        for option, value in (("delimiter", self.delimiter), ("quotechar", self.quotechar)):
            if len(value) != 1 or value in "\r\n":
                raise PipelineError("E217", f"wrong {option} for Csv", got=repr(value), expected="one character")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise PipelineError("E217", "a column twice for Csv", got=self.columns)

    def check(self) -> None:
        super().check()
        if not self.header and self.columns is None:
            raise PipelineError("E217", "no names for the columns", at=os.fspath(self.path), try_="columns=[...]")
        for path in find_files(os.fspath(self.path)):
            self.open_file(path, 0).close()

    def open_file(self, path: str, position: int) -> CsvReader:
        file = InputFile(path)
        try:
            return CsvReader(file, self._format(), self.max_record_bytes, position)
        except BaseException:
            file.close()
            raise

    def decode(self, raw: Any) -> Any:
        place = "the mended row"
        try:
            rows = [row for row in self._format().rows(io.StringIO(str(raw), newline="")) if row]
        except csv.Error as error:
            raise RecordError("E405", f"not valid CSV ({error})", at=place, got=raw) from error
        if len(rows) != 1:
            raise RecordError("E405", "not one row of CSV", at=place, got=raw)
        columns = self.columns
        if columns is None:
            reader = self.open_file(find_files(os.fspath(self.path))[0], 0)
            reader.close()
            columns = reader.columns
        return to_record(rows[0], columns, place)

    def sink(self) -> Sink:
        return CsvSink(self.path, self._format())

    def _format(self) -> CsvFormat:
        columns = None if self.columns is None else tuple(self.columns)
        return CsvFormat(self.delimiter, self.quotechar, columns, self.header)


@dataclass(frozen=True)
class CsvSink(FileSink):
    """Writes each record, which must be a dict, as one row."""

    format: CsvFormat

    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        if file.goes_on:
            columns = context.place["columns"]
            return CsvWriter(
                file, self.format, None if columns is None else tuple(columns), header=context.place["header_due"]
            )
        if not (context.append and file.has_content):
            return CsvWriter(file, self.format, self.format.columns, header=self.format.header)
        columns = self.format.columns
        if self.format.header:
            columns = self._columns_of(file.path)
        file.copy_existing()
        return CsvWriter(file, self.format, columns, header=False)

    def _columns_of(self, path: str) -> tuple[str, ...]:
        existing = InputFile(path)
        try:
            return CsvReader(existing, self.format, MAX_RECORD_BYTES).columns
        except SourceError as error:
            raise SinkError("E554", "the output that is there has other columns", at=path, got=str(error)) from error
        finally:
            existing.close()


class CsvWriter(FileWriter):
    def __init__(
        self, file: OutputFile, csv_format: CsvFormat, columns: tuple[str, ...] | None, *, header: bool
    ) -> None:
        super().__init__(file)
        self._format = csv_format
        self._columns = columns
        self._header_due = header

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rows: list[list[str]] = []
        rejected: list[Rejected] = []
        for index, record in enumerate(records):
            try:
                rows.append(self._cells(record))
            except RecordError as error:
                rejected.append(Rejected(index, error))
        self._write_header()
        self.file.write(self._encode(rows))
        return rejected

    def sync(self) -> Any:
        columns = None if self._columns is None else list(self._columns)
        return {**self.file.sync(), "columns": columns, "header_due": self._header_due}

    def commit(self) -> None:
        self._write_header()
        super().commit()

    def _write_header(self) -> None:
        if self._header_due and self._columns is not None:
            self.file.write(self._encode([self._columns]))
            self._header_due = False

    def _cells(self, record: Any) -> list[str]:
        if not isinstance(record, dict) or not record or not all(isinstance(key, str) for key in record):
            raise RecordError("E406", "not a row", got=record, expected="a dict with text keys, not empty")
        columns = self._columns or tuple(map(sound_text, record))
        if not record.keys() <= set(columns):
            unknown = sorted(record.keys() - set(columns))
            expected = ", ".join(columns)
            raise RecordError("E406", "a key that is no column", got=unknown, expected=expected, try_="columns=[...]")
        cells = [_cell(record.get(column)) for column in columns]
        self._columns = columns  # those of the first record that could be written
        return cells

    def _encode(self, rows: Sequence[Sequence[str]]) -> bytes:
        # a lone carriage return is not quoted by itself, although csv.reader takes it for the end of a row
        quote_all = any("\r" in cell for row in rows for cell in row)
        text = io.StringIO(newline="")
        csv.writer(
            text,
            delimiter=self._format.delimiter,
            quotechar=self._format.quotechar,
            quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL,
            lineterminator="\n",
        ).writerows(rows)
        return text.getvalue().encode()


def _cell(value: Any) -> str:
    if type(value) is str:
        return sound_text(value)
    if value is None:
        return ""
    return str(value) if type(value) in (int, float, bool) else to_json_cell(value)
