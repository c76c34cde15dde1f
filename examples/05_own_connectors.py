"""A source and a sink of one's own, and the checks that show whether they keep their contracts.

The source reads the paragraphs of a text file; the sink writes a file per record, named by the record's rid, so that a
record that comes twice has one effect.

    python examples/05_own_connectors.py
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import sage
from sage.errors import RecordError, SinkError, SourceError
from sage.flow import Chunk, Fault, Reader, Rejected, SinkContext, Writer
from sage.testing import check_sink, check_source

LICENCE = Path(__file__).resolve().parent.parent / "data" / "python_faq" / "LICENSE.txt"
LONGEST = 1500


@dataclass(frozen=True)
class Paragraphs(sage.Source):
    """The paragraphs of a UTF-8 text file, which blank lines part. A longer one than `LONGEST` is a fault."""

    path: Path

    def check(self) -> None:
        if not self.path.is_file():
            raise SourceError("E301", "there is no such file", at=str(self.path))

    def partitions(self) -> Sequence[str]:
        return (f"{self.path.name}@{self.path.stat().st_size}",)  # names the data: other data, other rids

    def open(self, partition: str, position: int = 0) -> Reader:
        if partition not in self.partitions():
            raise SourceError("E302", "the file changed", at=str(self.path))
        return ParagraphReader(self.path.read_text(encoding="utf-8").split("\n\n"), position)


class ParagraphReader(Reader):
    """Position n is paragraph n."""

    def __init__(self, paragraphs: list[str], position: int) -> None:
        self._paragraphs = paragraphs
        self._next = position

    def read(self, max_records: int) -> Chunk | None:
        first, self._next = self._next, self._next + max_records
        chunk = Chunk([], positions := [], faults := [])
        for position, text in enumerate(self._paragraphs[first : self._next], first):
            if len(text) > LONGEST:
                error = RecordError("E404", "the paragraph is too long", at=f"paragraph {position}", got=len(text))
                faults.append(Fault(position, text, error))
            else:
                chunk.records.append({"paragraph": position, "text": text})
                positions.append(position)
        return chunk if positions or faults else None


@dataclass(frozen=True)
class JsonFiles(sage.Sink):
    """A JSON file per record in `folder`. The rid is the name, so writing a record again changes nothing."""

    folder: Path
    idempotent: ClassVar[bool] = True

    def check(self) -> None:
        if self.folder.exists() and not os.access(self.folder, os.W_OK | os.X_OK):
            raise SinkError("E551", "the folder cannot be written to", at=str(self.folder))

    def open(self, context: SinkContext) -> Writer:
        self.folder.mkdir(parents=True, exist_ok=True)
        return JsonFilesWriter(self.folder)


class JsonFilesWriter(Writer):
    """Each file appears whole, at once; there is nothing to commit or to take back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected = []
        for index, (record, rid) in enumerate(zip(records, rids, strict=True)):
            try:
                text = json.dumps(record)
            except (TypeError, ValueError) as error:
                rejected.append(Rejected(index, RecordError("E406", "not JSON", got=str(error))))
                continue
            part = self._folder / ".part"
            part.write_text(text)
            part.replace(self._folder / f"{quote(rid, safe='')}.json")
        return rejected

    def commit(self) -> None:
        """Every file is in place already."""

    def abort(self) -> str | None:
        return None


def check_contracts() -> None:
    """Raises AssertionError, with the story of what was done, if one of the two breaks its contract."""
    check_source(Paragraphs(LICENCE))
    with tempfile.TemporaryDirectory() as folder:
        records = [{"n": n} for n in range(12)]
        check_sink(JsonFiles(Path(folder)), lambda: read_back(Path(folder)), records=records, refused=[{"n": {1, 2}}])
    print("both contracts are kept")


def read_back(folder: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(file.read_text()) for file in folder.glob("*.json")), key=lambda record: record["n"])


if __name__ == "__main__":
    check_contracts()
    with tempfile.TemporaryDirectory() as output:
        pipeline = sage.Pipeline("paragraphs")
        pipeline.read(Paragraphs(LICENCE)).write(JsonFiles(Path(output)))
        result = sage.run(pipeline, dead_letters=Path(output) / "paragraphs.dead.jsonl")
        print(result.account)
        for file in sorted(Path(output).glob("*.json"))[:3]:
            print(file.name, len(file.read_text()), "bytes")
