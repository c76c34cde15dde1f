"""The shipped checks find what breaks a contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.flow.source import Chunk, Reader, Source
from sage.testing import check_sink, check_source

BROKEN_SOURCES = {
    "none": None,
    "partitions": r"partitions\(\) brought",
    "position": "opened at 0 brought|opened at 1 brought",
    "too many": "a chunk of",
    "empty": "an empty chunk",
    "lengths": "there must be one for each",
    "order": "positions must ascend",
    "before": "lies before",
    "after the end": "something came after the end",
    "other records": "brought .* not",
}


class Numbers(Source):
    """The numbers 0 to 9, with one `fault`."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.opened = 0

    def check(self) -> None:
        pass

    def partitions(self) -> Sequence[str]:
        self.opened += self.fault == "partitions"
        return [f"numbers{self.opened}"]

    def open(self, partition: str, position: int = 0) -> Reader:
        self.opened += self.fault == "other records"
        start = 0 if self.fault == "before" else position + (self.fault == "position" and position > 0)
        return NumbersReader(self.fault, start, self.opened)


class NumbersReader(Reader):
    def __init__(self, fault: str, start: int, shift: int) -> None:
        self.fault = fault
        self.next = start
        self.shift = shift
        self.ended = False

    def read(self, max_records: int) -> Chunk | None:
        if self.next >= 10 or self.ended:
            again = self.ended and self.fault == "after the end"
            self.ended = True
            return Chunk([1], [99]) if again else None
        if self.fault == "empty" and self.next == 5:
            self.next += 1
            return Chunk([], [])
        stop = min(10, self.next + max_records + (self.fault == "too many"))
        positions = list(range(self.next, stop))
        self.next = stop
        records = [position + self.shift for position in positions]
        if self.fault == "order":
            positions.reverse()
        return Chunk(records, positions[self.fault == "lengths" :])


@pytest.mark.parametrize("fault", BROKEN_SOURCES)
def test_a_broken_source_is_found(fault: str) -> None:
    story = BROKEN_SOURCES[fault]
    if story is None:
        check_source(Numbers(fault))
        return
    with pytest.raises(AssertionError, match=story):
        check_source(Numbers(fault))


BROKEN_SINKS = {
    "none": None,
    "check": r"after check\(\)",
    "abort": r"after write\(\) and abort\(\)",
    "append": "after a third run with append=True",
    "always append": "after a second run, which replaces the first",
    "refuses": "should refuse",
    "takes all": "should refuse",
    "order": r"commit\(\) there are",
}


class Lines(Sink):
    """Lines of text in one file, with one `fault`."""

    def __init__(self, path: Path, fault: str) -> None:
        self.path = path
        self.fault = fault

    def check(self) -> None:
        if self.fault == "check":
            self.path.write_text("probe\n")

    def open(self, context: SinkContext) -> Writer:
        append = (context.append and self.fault != "append") or self.fault == "always append"
        return LinesWriter(self.path, self.fault, self.path.read_text() if append and self.path.exists() else "")


class LinesWriter(Writer):
    def __init__(self, path: Path, fault: str, text: str) -> None:
        self.path = path
        self.fault = fault
        self.text = text

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        refused = [
            index for index, record in enumerate(records) if record.startswith("bad") and self.fault != "takes all"
        ]
        lines = [f"{record}\n" for index, record in enumerate(records) if index not in refused]
        self.text += "".join(reversed(lines) if self.fault == "order" else lines)
        if self.fault == "refuses" and records:
            refused = [0]
        return [Rejected(index, ValueError()) for index in refused]  # type: ignore[arg-type]

    def commit(self) -> None:
        self.path.write_text(self.text)

    def abort(self) -> str | None:
        if self.fault == "abort" and self.text:
            self.commit()
        return None


@pytest.mark.parametrize("fault", BROKEN_SINKS)
def test_a_broken_sink_is_found(fault: str, tmp_path: Path) -> None:
    story = BROKEN_SINKS[fault]
    path = tmp_path / "out"
    sink = Lines(path, fault)

    def check() -> None:
        read_back = lambda: path.read_text().splitlines() if path.exists() else []  # noqa: E731
        check_sink(sink, read_back, records=["a", "b", "c", "d", "e"], refused=["bad"])

    if story is None:
        check()
        return
    with pytest.raises(AssertionError, match=story):
        check()
