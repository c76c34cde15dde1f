"""The rows of a CSV file: reading, with the place of each row, past whatever is broken."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sage.connectors.input import InputFile
from sage.connectors.lines import LineBlocks, Oversized, find_line, not_utf8, raw_text, too_large
from sage.errors import RecordError, SourceError
from sage.flow.source import Chunk, Fault, Reader


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a file is written. `columns` are names that were given; `header`: whether the first row has the names."""

    delimiter: str
    quotechar: str
    columns: tuple[str, ...] | None
    header: bool

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The cells of `lines`; takes no more lines than the next row needs."""
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quotechar, strict=True)


class CsvReader(Reader):
    """The rows of one file. Closes `file`."""

    def __init__(self, file: InputFile, csv_format: CsvFormat, max_record_bytes: int, position: int = 0) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), max_record_bytes))
        self._file = file
        self._format = csv_format
        self._position = position
        self._lines = _Lines(file, max_record_bytes)
        self._rows = csv_format.rows(self._lines)
        self.columns = csv_format.columns or ()
        if csv_format.header:
            self._read_header()

    def read(self, max_records: int) -> Chunk | None:
        records: list[dict[str, str]] = []
        positions: list[int] = []
        faults: list[Fault] = []
        while len(records) + len(faults) < max_records:
            self._lines.begin_row()
            try:
                row = next(self._rows, None)
                if row is None:
                    break
                if not row or self._lines.row_offset < self._position:
                    continue
                records.append(to_record(row, self.columns, self._lines.place))
                positions.append(self._lines.row_offset)
            except (csv.Error, RecordError) as error:
                fault = self._lines.give_up(error)
                self._rows = self._format.rows(self._lines)
                if fault.position >= self._position:
                    faults.append(fault)
        return Chunk(records, positions, faults) if records or faults else None

    def close(self) -> None:
        self._file.close()

    def _read_header(self) -> None:
        self._lines.begin_row()
        try:
            names = next(self._rows, [])
        except (csv.Error, RecordError) as error:
            raise SourceError("E308", "the header row is broken", at=self._file.path, got=str(error)) from error
        if len(set(names)) < len(names):
            raise SourceError("E308", "the header row has a name twice", at=self._file.path, got=names)
        if names and self.columns and tuple(names) != self.columns:
            expected = ", ".join(self.columns)
            raise SourceError(
                "E308", "the header row has other names", at=self._file.path, got=names, expected=expected
            )
        self.columns = tuple(names)


class _Lines(Iterator[str]):
    """The lines of a file, as csv.reader asks for them; remembers those of the row that is being read."""

    def __init__(self, file: InputFile, max_record_bytes: int) -> None:
        offset, carried = find_line(file, 0)
        self._blocks = LineBlocks(file.read, max_record_bytes, offset=offset, carried=carried)
        self._path = file.path
        self._max_record_bytes = max_record_bytes
        self._ahead: deque[tuple[int, bytes | Oversized]] = deque()
        self._row: list[tuple[int, bytes | Oversized]] = []
        self._row_bytes = 0
        self._rows_lines_before = 0

    def begin_row(self) -> None:
        self._rows_lines_before += len(self._row)
        self._row = []
        self._row_bytes = 0

    @property
    def row_offset(self) -> int:
        return self._row[0][0]

    @property
    def place(self) -> str:
        return f"{self._path}:{self._rows_lines_before + 1}"

    def __next__(self) -> str:
        if not self._ahead and not self._fill():
            raise StopIteration
        self._row.append(self._ahead.popleft())
        line = self._row[-1][1]
        self._row_bytes += line.size_bytes if isinstance(line, Oversized) else len(line)
        if isinstance(line, Oversized) or self._row_bytes > self._max_record_bytes:
            raise too_large(self._row_bytes, self._max_record_bytes, self.place)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(line, error, self.place) from error

    def give_up(self, error: Exception) -> Fault:
        """Make a fault of the row's first line and go on with the second: an open quote swallows no neighbours."""
        offset, line = self._row[0]
        self._ahead.extendleft(reversed(self._row[1:]))
        del self._row[1:]
        raw = raw_text(line.head if isinstance(line, Oversized) else line)
        if not isinstance(error, RecordError):
            error = RecordError("E405", f"not valid CSV ({error})", at=self.place, got=raw)
        return Fault(offset, raw, error)

    def _fill(self) -> bool:
        block = self._blocks.next()
        if block is None:
            return False
        if isinstance(block, Oversized):
            self._ahead.append((block.offset, block))
            return True
        offset = block.offset
        for line in block.data.splitlines(keepends=True) if b"\r" not in block.data else _split(block.data):
            self._ahead.append((offset, line))
            offset += len(line)
        return True


def _split(data: bytes) -> list[bytes]:
    """Lines that end with a line feed only; a carriage return within a cell stays there."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def to_record(row: list[str], columns: Sequence[str], at: str) -> dict[str, str]:
    """The dict of one row."""
    if len(row) != len(columns):
        expected = f"{len(columns)} ({', '.join(columns)})"
        raise RecordError("E405", "a row of the wrong length", at=at, got=f"{len(row)} cells", expected=expected)
    return dict(zip(columns, row, strict=True))
