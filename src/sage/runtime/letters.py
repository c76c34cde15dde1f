"""Dead letters, read back from the file that `deadletters.py` writes: one by one, and as a source of records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sage import codec
from sage.errors import RecordError, StorageError
from sage.flow.source import Chunk, Fault, Reader, Source

MAX_LINE_BYTES = codec.MAX_BYTES + 1
MOST_BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True, slots=True)
class Letter:
    """One record that failed for good."""

    rid: str
    step: str
    """The step that failed."""
    code: str
    reason: str
    attempts: int
    pipeline: str
    run: str
    at: str
    traceback: str | None
    input: Any
    """What the step was given; if it is not `replayable`, a shortened picture of it."""
    replayable: bool
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file, as it stands there."""

    number: int
    offset: int
    text: bytes


def lines(file: IO[bytes]) -> Iterator[Line]:
    """The lines of `file` that are not empty, from its beginning."""
    offset = number = 0
    file.seek(0)
    while text := file.readline(MAX_LINE_BYTES):
        number += 1
        if text.strip():
            yield Line(number, offset, text)
        offset += len(text)


def letter_of(line: Line, name: str) -> Letter:
    """The letter on `line` of the file `name`. Raises `StorageError` E653 if there is none."""
    at = f"{name}:{line.number}"
    try:
        fields = codec.decode(line.text)
    except StorageError as error:
        raise StorageError("E653", "this line is not a dead letter", at=at, got=error.what) from error
    if not isinstance(fields, dict) or "input" not in fields:
        raise StorageError("E653", "this line is not a dead letter", at=at, got=line.text[:200])
    texts = {name: fields.get(name) for name in ("rid", "step", "code", "reason", "pipeline", "run", "at")}
    for field, value in texts.items():
        if not isinstance(value, str):
            raise StorageError(
                "E653", f"this line is not a dead letter: {field} is not text", at=at, got=line.text[:200]
            )
    attempts, traceback, why_not = fields.get("attempts"), fields.get("traceback"), fields.get("why_not")
    return Letter(
        **{name: str(value) for name, value in texts.items()},
        attempts=attempts if isinstance(attempts, int) else 1,
        traceback=traceback if isinstance(traceback, str) else None,
        input=fields["input"],
        replayable=fields.get("replayable") is True,
        why_not=why_not if isinstance(why_not, str) else None,
    )


@dataclass(frozen=True)
class LetterSource(Source):
    """The inputs of the letters at `offsets` of the file, which must not change meanwhile; they keep their rids."""

    path: Path
    step: str
    offsets: Sequence[int]
    make_record: Callable[[Any], Any] | None
    """For letters of a source: makes a record of what could not be read."""

    def check(self) -> None:
        """The file is open and locked."""

    def partitions(self) -> Sequence[str]:
        return (self.step,)

    def open(self, partition: str, position: int = 0) -> Reader:
        return LetterReader(self, position)


class LetterReader(Reader):
    """Reads the letters of one step, a few megabytes at most at once."""

    def __init__(self, source: LetterSource, position: int) -> None:
        self._source = source
        self._file = source.path.open("rb")
        self._offsets = iter([offset for offset in source.offsets if offset >= position])

    def read(self, max_records: int) -> Chunk | None:
        chunk = Chunk([], positions := [], faults := [], rids := [])
        for offset, letter in self._some(max_records):
            try:
                record = letter.input if self._source.make_record is None else self._source.make_record(letter.input)
            except RecordError as error:
                faults.append(Fault(offset, letter.input, error, letter.rid))
            else:
                chunk.records.append(record)
                positions.append(offset)
                rids.append(letter.rid)
        return chunk if positions or faults else None

    def _some(self, number: int) -> Iterator[tuple[int, Letter]]:
        size = 0
        while number > 0 and size < MOST_BYTES_AT_ONCE and (offset := next(self._offsets, None)) is not None:
            self._file.seek(offset)
            text = self._file.readline()
            yield offset, self._letter(Line(0, offset, text))
            number -= 1
            size += len(text)

    def _letter(self, line: Line) -> Letter:
        try:
            return letter_of(line, str(self._source.path))
        except StorageError as error:
            raise StorageError(
                "E655", "the dead letters were changed while they were replayed", at=str(self._source.path)
            ) from error

    def close(self) -> None:
        self._file.close()
