"""Standard input and output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sage.connectors.json_text import to_json_lines
from sage.connectors.jsonlines import JSON
from sage.connectors.lines import MAX_RECORD_BYTES, LineBlocks, LineFormat, LineReader
from sage.connectors.output_errors import translated
from sage.connectors.text import TextFormat, to_text_lines
from sage.errors import SinkError, SourceError
from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.flow.source import Reader, Source

NAME_IN, NAME_OUT = "standard input", "standard output"


@dataclass(frozen=True)
class Stdin(Source):
    """Lines from standard input: JSON or, with ``text=True``, plain text; rules as for `JsonLines` and `Text`.

    Waits for a line, then brings all that has arrived. Cannot be read again: what was read by a run that fails is gone.
    """

    text: bool = False
    max_record_bytes: int = MAX_RECORD_BYTES
    replayable = False

    def check(self) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise SourceError("E301", "there is no standard input", at=NAME_IN, try_="command | sage run FILE")

    def partitions(self) -> Sequence[str]:
        return ("stdin",)

    def open(self, partition: str, position: int = 0) -> Reader:
        self.check()
        if position:
            raise SourceError(
                "E302", "standard input cannot be read again", at=NAME_IN, try_="JsonLines(path) with a file"
            )
        line_format: LineFormat = TextFormat() if self.text else JSON
        return LineReader(
            LineBlocks(_read, self.max_record_bytes),
            line_format,
            name="stdin",
            max_record_bytes=self.max_record_bytes,
            lines_before=lambda: 0,
            close=lambda: None,
        )


@dataclass(frozen=True)
class Stdout(Sink):
    """Lines on standard output, at once: JSON or, with ``text=True``, plain text. Nothing is undone by a failure."""

    text: bool = False
    idempotent: ClassVar[bool] = False
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_write"

    def check(self) -> None:
        if sys.stdout is None or sys.stdout.closed:
            raise SinkError("E550", "there is no standard output", at=NAME_OUT, try_="JsonLines(path)")

    def open(self, context: SinkContext) -> Writer:
        self.check()
        return StdoutWriter(text=self.text)


class StdoutWriter(Writer):
    """Writes each batch through. A reader that went away (``| head``) is a `SinkError` E557."""

    def __init__(self, *, text: bool) -> None:
        self._to_lines = to_text_lines if text else to_json_lines

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        data, rejected = self._to_lines(records)
        try:
            with translated(NAME_OUT):
                sys.stdout.write(data.decode())
                sys.stdout.flush()
        except SinkError as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise SinkError("E557", "nobody reads the output any more", at=NAME_OUT) from error
            raise
        return rejected

    def commit(self) -> None:
        """Every batch was written through."""

    def abort(self) -> str | None:
        return None


def _read(size: int) -> bytes:
    try:
        return os.read(sys.stdin.fileno(), size)
    except OSError as error:
        raise SourceError("E306", "standard input cannot be read", at=NAME_IN, got=str(error)) from error
