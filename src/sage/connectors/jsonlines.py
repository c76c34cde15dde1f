"""JSON Lines: a JSON value a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sage.connectors.files import FileSource
from sage.connectors.json_text import to_json_lines
from sage.connectors.lines import (
    MAX_RECORD_BYTES,
    Blank,
    LineReader,
    Taken,
    line_offsets,
    not_utf8,
    open_lines,
    raw_text,
    split_lines,
)
from sage.connectors.output import FileSink, FileWriter
from sage.connectors.output_file import OutputFile
from sage.errors import RecordError
from sage.flow.sink import Rejected, Sink, SinkContext, Writable

_WHITESPACE = b" \t\r"


@dataclass(frozen=True)
class JsonLines(FileSource, Writable):
    """A file of JSON lines, or all that a glob finds: any JSON value but null is a record. As a sink, one file.

    UTF-8, also compressed (``.gz``). Empty lines are skipped. What is broken (not JSON, NaN, lone surrogates,
    not UTF-8, longer than `max_record_bytes`) becomes a fault that names its line, and its neighbours go on.
    A position is the byte offset of the line. What can be written is told in `sage.connectors.json_text`.
    """

    max_record_bytes: int = MAX_RECORD_BYTES

    def open_file(self, path: str, position: int) -> LineReader:
        return open_lines(path, position, JSON, self.max_record_bytes)

    def decode(self, raw: Any) -> Any:
        return JSON.decode(
            raw if isinstance(raw, bytes) else str(raw).encode("utf-8", "surrogatepass"), "the mended record"
        )

    def sink(self) -> Sink:
        return JsonLinesSink(self.path)


class JsonFormat:
    """Lines that are one JSON value each."""

    split = staticmethod(split_lines)

    def take(self, offset: int, lines: list[Any]) -> Taken | None:
        try:
            records = list(map(_decoder().decode, lines))
        except (ValueError, RecursionError):
            return None
        return None if None in records else Taken(records, *line_offsets(offset, lines))

    def decode(self, line: bytes, at: str) -> Any:
        try:
            record = _decoder().decode(line)
        except UnicodeDecodeError as error:
            raise not_utf8(line, error, at) from error
        except (ValueError, RecursionError) as error:
            if not line.strip(_WHITESPACE):
                raise Blank from None
            reason = str(error).removeprefix("JSON is malformed: ")
            raise RecordError(
                "E401", "not valid JSON", at=at, got=raw_text(line), expected=f"one JSON value ({reason})"
            ) from error
        if record is None:
            raise RecordError("E402", "null is not a record", at=at, got="null", expected="any other JSON value")
        return record


JSON = JsonFormat()


@dataclass(frozen=True)
class JsonLinesSink(FileSink):
    """Writes each record as one line of JSON."""

    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        if context.append:
            file.copy_existing()
        return JsonLinesWriter(file)


class JsonLinesWriter(FileWriter):
    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        data, rejected = to_json_lines(records)
        self.file.write(data)
        return rejected


@cache
def _decoder() -> Any:
    import msgspec

    return msgspec.json.Decoder()
