"""The beginning of a source, to try a pipeline out before all of it is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sage.errors import PipelineError
from sage.flow.pipeline import Pipeline
from sage.flow.source import Chunk, Reader, Source
from sage.flow.step import Kind


@dataclass(frozen=True)
class First(Source):
    """The first `count` records of each partition of `source` (of a file, that is), with the rids that they have there.

    A record that cannot be made sense of counts, too.
    """

    source: Source
    count: int

    def __post_init__(self) -> None:
        if not isinstance(self.source, Source):
            raise PipelineError("E217", "First needs a Source", got=self.source, try_="First(Csv(path), 20)")
        if type(self.count) is not int or self.count < 1:  # True is no count
            raise PipelineError("E217", "wrong count for First", got=repr(self.count), expected="a whole number from 1")

    @property
    def replayable(self) -> bool:
        return self.source.replayable

    def check(self) -> None:
        self.source.check()

    def partitions(self) -> Sequence[str]:
        return self.source.partitions()

    def open(self, partition: str, position: int = 0) -> Reader:
        """From the beginning, whatever `position`: what comes before it counts."""
        return FirstReader(self.source.open(partition), self.count, position)

    def decode(self, raw: Any) -> Any:
        return self.source.decode(raw)


class FirstReader(Reader):
    """Gives of the first `left` records and faults of `reader` those that stand at `position` or behind it."""

    def __init__(self, reader: Reader, left: int, position: int) -> None:
        self._reader = reader
        self._left = left
        self._position = position

    def read(self, max_records: int) -> Chunk | None:
        while self._left:
            chunk = self._reader.read(min(max_records, self._left))
            if chunk is None:
                return None
            self._left -= len(chunk.records) + len(chunk.faults)
            chunk = _from(chunk, self._position)
            if chunk.records or chunk.faults:
                return chunk
        return None

    def close(self) -> None:
        self._reader.close()


def only_first(pipeline: Pipeline, count: int) -> Pipeline:
    """`pipeline` with the first `count` records of each partition of its sources."""
    steps = [
        replace(step, operator=First(step.operator, count))
        if step.kind is Kind.READ and isinstance(step.operator, Source)
        else step
        for step in pipeline.steps
    ]
    return Pipeline.of(pipeline.name, steps)


def _from(chunk: Chunk, position: int) -> Chunk:
    """What of `chunk` stands at `position` or behind it."""
    before = sum(one < position for one in chunk.positions)  # they ascend
    rids = None if chunk.rids is None else chunk.rids[before:]
    faults = [fault for fault in chunk.faults if fault.position >= position]
    return Chunk(chunk.records[before:], chunk.positions[before:], faults, rids)
