"""Plain text: a record a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from sage.connectors.files import FileSource
from sage.connectors.lines import MAX_RECORD_BYTES, LineReader, Taken, line_offsets, not_utf8, open_lines, split_lines
from sage.connectors.output import FileSink, FileWriter
from sage.connectors.output_file import OutputFile
from sage.errors import RecordError
from sage.flow.sink import Rejected, Sink, SinkContext, Writable


@dataclass(frozen=True)
class Text(FileSource, Writable):
    """A text file, or all that a glob finds: every line is one `str`, without its line ending. As a sink, the same.

    UTF-8, also compressed (``.gz``). Empty lines are records too. A position is the byte offset of the line.
    """

    max_record_bytes: int = MAX_RECORD_BYTES

    def open_file(self, path: str, position: int) -> LineReader:
        return open_lines(path, position, TextFormat(), self.max_record_bytes)

    def sink(self) -> Sink:
        return TextSink(self.path)


class TextFormat:
    """Lines as they are. Decoded a block at a time, because that is what reading text costs."""

    def split(self, data: bytes) -> list[Any]:
        try:
            lines = data.decode().split("\n")
        except UnicodeDecodeError:
            return split_lines(data)
        if not lines[-1]:
            lines.pop()
        return lines

    def take(self, offset: int, lines: list[Any]) -> Taken | None:
        if isinstance(lines[0], bytes):
            return None
        text = "\n".join(lines)
        following = offset + len(text.encode()) + 1
        positions = LinePositions(offset, following - len(lines[-1].encode()) - 1, lines)
        records = [line.removesuffix("\r") for line in lines] if "\r" in text else lines
        return Taken(records, positions, following)

    def decode(self, line: bytes, at: str) -> str:
        try:
            return line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise not_utf8(line, error, at) from error


class LinePositions(Sequence[int]):
    """Where lines start, in bytes. The first and the last are known; the others are counted when they are asked for."""

    __slots__ = ("_all", "_first", "_last", "_lines")

    def __init__(self, first: int, last: int, lines: list[str]) -> None:
        self._first = first
        self._last = last
        self._lines = lines
        self._all: list[int] | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        if index == 0:
            return self._first
        if index in (-1, len(self) - 1):
            return self._last
        return self._counted()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._counted())

    def _counted(self) -> list[int]:
        if self._all is None:
            self._all, _ = line_offsets(self._first, [line.encode() for line in self._lines])
        return self._all


@dataclass(frozen=True)
class TextSink(FileSink):
    """Writes each record, which must be a `str` without line breaks, as one line."""

    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        if context.append:
            file.copy_existing()
        return TextWriter(file)


class TextWriter(FileWriter):
    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        data, rejected = to_text_lines(records)
        self.file.write(data)
        return rejected


def to_text_lines(records: Sequence[Any]) -> tuple[bytes, list[Rejected]]:
    """Each record as one line, and those that are no line."""
    lines: list[bytes] = []
    rejected: list[Rejected] = []
    for index, record in enumerate(records):
        try:
            lines.append(_line(record))
        except RecordError as error:
            rejected.append(Rejected(index, error))
    return b"".join(lines), rejected


def _line(record: Any) -> bytes:
    if not isinstance(record, str) or "\n" in record or "\r" in record:
        try_ = "JsonLines, or .map(function) that makes one line of it"
        raise RecordError("E406", "not a line of text", got=record, expected="a str without line breaks", try_=try_)
    try:
        return record.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise RecordError("E406", "not valid Unicode text", got=record, expected="no lone surrogates") from error
