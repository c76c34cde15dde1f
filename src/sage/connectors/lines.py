"""Files of lines: blocks of whole lines, and the reader that makes a record of each line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from operator import add
from typing import Any, NamedTuple, Protocol

from sage.connectors.input import InputFile
from sage.errors import RecordError, SourceError
from sage.flow.source import Chunk, Fault, Reader

BLOCK_BYTES = 64 * 1024
"""Larger blocks are slower: from 128 KB on, the allocator gets every one of them anew from the system."""
MAX_RECORD_BYTES = 16 * 1024 * 1024
RAW_BYTES = 64 * 1024
"""How much of a record at fault is kept with the fault."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, each with its newline (but for the last of a file), starting at byte `offset`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Oversized:
    """A line that was skipped, because it is longer than allowed. `head` is its beginning."""

    offset: int
    size_bytes: int
    head: bytes


class LineBlocks:
    """Cuts what `read` brings into blocks of whole lines, and holds no more than a line may be long plus a block."""

    def __init__(
        self, read: Callable[[int], bytes], max_line_bytes: int, *, offset: int = 0, carried: bytes = b""
    ) -> None:
        self._read = read
        self._max_line_bytes = max_line_bytes
        self._offset = offset
        self._carried = carried
        self._ended = False

    def next(self) -> Block | Oversized | None:
        """What comes next; None at the end. Waits for one newline, never for a full block."""
        parts, size_bytes = [self._carried], len(self._carried)
        while True:
            data = b"" if self._ended else self._read(BLOCK_BYTES)
            cut = data.rfind(b"\n") + 1
            if cut or not data:
                break
            parts.append(data)
            size_bytes += len(data)
            if size_bytes > self._max_line_bytes:
                return self._skip_line(parts)
        self._ended = not data
        self._carried = data[cut:]
        return self._advance(b"".join((*parts, data[:cut])))

    def _advance(self, block: bytes) -> Block | None:
        if not block:
            return None
        offset, self._offset = self._offset, self._offset + len(block)
        return Block(offset, block)

    def _skip_line(self, parts: list[bytes]) -> Oversized:
        head, size_bytes = b"".join(parts)[:RAW_BYTES], sum(map(len, parts))
        parts.clear()
        while True:
            data = self._read(BLOCK_BYTES)
            cut = data.find(b"\n") + 1
            size_bytes += cut or len(data)
            if cut or not data:
                break
        self._ended = not data
        self._carried = data[cut:]
        offset, self._offset = self._offset, self._offset + size_bytes
        return Oversized(offset, size_bytes, head)


class Taken(NamedTuple):
    """The records of some lines, and the offset of the line after them."""

    records: list[Any]
    positions: Sequence[int]
    following: int


class LineFormat(Protocol):
    """How lines (without newline) become records."""

    def split(self, data: bytes) -> list[Any]:
        """The lines of a block, as bytes or as whatever `take` is quicker with."""

    def take(self, offset: int, lines: list[Any]) -> Taken | None:
        """The records of `lines`, the first of which starts at `offset`; None if they need to be looked at one by one.

        Then they must be bytes.
        """

    def decode(self, line: bytes, at: str) -> Any:
        """The record of one line; raises `RecordError` that names the place `at`, or `Blank`."""


class Blank(Exception):
    """The line holds no record, and that is fine."""


class LineReader(Reader):
    """One record a line; a position is the byte offset of the line. Closes `close` when closed."""

    def __init__(
        self,
        blocks: LineBlocks,
        line_format: LineFormat,
        *,
        name: str,
        max_record_bytes: int,
        lines_before: Callable[[], int],
        close: Callable[[], None],
    ) -> None:
        self._blocks = blocks
        self._format = line_format
        self._name = name
        self._max_record_bytes = max_record_bytes
        self._lines_before = lines_before
        self._close = close
        self._lines: list[Any] = []
        self._next = 0
        self._offset = 0
        self._lines_done = 0
        self._look_singly = False

    def read(self, max_records: int) -> Chunk | None:
        while True:
            if self._next == len(self._lines):
                block = self._blocks.next()
                if block is None:
                    return None
                if isinstance(block, Oversized):
                    return self._oversized(block)
                self._load(block)
            chunk = self._take(max_records)
            if chunk.records or chunk.faults:
                return chunk

    def close(self) -> None:
        self._close()

    def _load(self, block: Block) -> None:
        self._lines_done += len(self._lines)
        self._look_singly = len(block.data) > self._max_record_bytes  # one of them may be too large
        self._lines = split_lines(block.data) if self._look_singly else self._format.split(block.data)
        self._next, self._offset = 0, block.offset

    def _take(self, max_records: int) -> Chunk:
        start, stop = self._next, min(self._next + max_records, len(self._lines))
        self._next = stop
        lines = self._lines[start:stop]
        taken = None if self._look_singly else self._format.take(self._offset, lines)
        if taken is None:
            return self._take_singly(lines, start)
        self._offset = taken.following
        return Chunk(taken.records, taken.positions)

    def _take_singly(self, lines: list[bytes], start: int) -> Chunk:
        offsets, self._offset = line_offsets(self._offset, lines)
        records: list[Any] = []
        positions: list[int] = []
        faults: list[Fault] = []
        for index, (offset, line) in enumerate(zip(offsets, lines, strict=True), start):
            try:
                if len(line) > self._max_record_bytes:
                    raise too_large(len(line), self._max_record_bytes, self._place(index))
                record = self._format.decode(line, self._place(index))
            except Blank:
                continue
            except RecordError as error:
                faults.append(Fault(offset, raw_text(line), error))
            else:
                records.append(record)
                positions.append(offset)
        return Chunk(records, positions, faults)

    def _oversized(self, line: Oversized) -> Chunk:
        self._lines_done += len(self._lines)
        self._lines, self._next = [], 0
        error = too_large(line.size_bytes, self._max_record_bytes, self._place(0))
        self._lines_done += 1
        return Chunk([], (), (Fault(line.offset, raw_text(line.head), error),))

    def _place(self, index: int) -> str:
        return f"{self._name}:{self._lines_before() + self._lines_done + index + 1}"


def split_lines(data: bytes) -> list[bytes]:
    """The lines of `data`, without their newlines; what follows the last newline is a line unless it is empty."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def line_offsets(offset: int, lines: list[bytes]) -> tuple[list[int], int]:
    """Where each of `lines` starts, the first at `offset`; and where the next one does."""
    offsets = list(map(add, accumulate(map(len, lines), initial=offset), count()))
    return offsets, offsets.pop()


def open_lines(path: str, position: int, line_format: LineFormat, max_record_bytes: int) -> LineReader:
    """Read the lines of the file `path` that start at `position` or later. A byte order mark is skipped."""
    file = InputFile(path)
    try:
        offset, carried = find_line(file, position)
    except BaseException:
        file.close()
        raise
    lines_before: list[int] = []

    def count_lines_before() -> int:  # only a fault needs it, and it reads everything before `position`
        if not lines_before:
            lines_before.append(_count_lines(path, offset) if position else 0)
        return lines_before[0]

    return LineReader(
        LineBlocks(file.read, max_record_bytes, offset=offset, carried=carried),
        line_format,
        name=path,
        max_record_bytes=max_record_bytes,
        lines_before=count_lines_before,
        close=file.close,
    )


def too_large(size_bytes: int, max_record_bytes: int, at: str) -> RecordError:
    """The error of a record that is longer than allowed."""
    return RecordError(
        "E404",
        "the record is too large",
        at=at,
        got=f"{size_bytes:,} bytes",
        expected=f"at most {max_record_bytes:,}",
        try_="max_record_bytes=...",
    )


def not_utf8(line: bytes, error: UnicodeDecodeError, at: str) -> RecordError:
    """The error of a record that is not UTF-8."""
    return RecordError(
        "E403", f"not valid UTF-8 ({error.reason}, byte {error.start})", at=at, got=line, expected="UTF-8"
    )


def raw_text(line: bytes) -> str | bytes:
    """The beginning of a broken line, as text if it is text."""
    try:
        return line[:RAW_BYTES].decode()
    except UnicodeDecodeError:
        return line[:RAW_BYTES]


def find_line(file: InputFile, position: int) -> tuple[int, bytes]:
    """The offset of the first line at `position` or later, and the bytes read from there so far."""
    head = file.read(3)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(
            "E307", "this is UTF-16, not UTF-8", at=file.path, try_=f"iconv -f UTF-16 -t UTF-8 {file.path}"
        )
    if position <= len(_BOM) and head == _BOM:
        return len(_BOM), b""
    if position == 0:
        return 0, head
    file.seek(position - 1)  # a line starts at `position` only if the byte before is a newline
    offset = position - 1
    while data := file.read(BLOCK_BYTES):
        cut = data.find(b"\n") + 1
        if cut:
            return offset + cut, data[cut:]
        offset += len(data)
    return offset, b""


def _count_lines(path: str, offset: int) -> int:
    file = InputFile(path)
    lines = 0
    try:
        while offset > 0 and (data := file.read(min(BLOCK_BYTES, offset))):
            lines += data.count(b"\n")
            offset -= len(data)
    finally:
        file.close()
    return lines
