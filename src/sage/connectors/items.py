"""Python iterables as a source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import GeneratorType
from typing import Any

from sage.errors import PipelineError, SourceError
from sage.flow.source import Chunk, Reader, Source

PATIENCE_S = 0.01
"""About how long an iterator may take to fill a chunk, before what is there is sent on."""


@dataclass(frozen=True)
class Items(Source):
    """Records from a list or another sequence, from an iterable, or from a function that returns a fresh iterable.

    The position of a record is its index. Sequences and functions can be read again (a function must then bring the
    same records); any other iterable only once. `name` is the partition's id: give one where rids must
    tell two such sources apart. Changing a list while it is read is not noticed.
    """

    items: Iterable[Any] | Callable[[], Iterable[Any]] = field(repr=False)
    name: str = "items"

    def __post_init__(self) -> None:
        if isinstance(self.items, str | bytes | dict) or not (callable(self.items) or isinstance(self.items, Iterable)):
            try_ = (
                "Text(path) or JsonLines(path) for a file, [value] for one record, dictionary.items() for pairs, "
                "flat_map for what an async generator brings"
            )
            raise PipelineError("E217", "Items needs an iterable of records", got=self.items, try_=try_)

    @property
    def replayable(self) -> bool:
        return isinstance(self.items, Sequence) or callable(self.items)

    def check(self) -> None:
        """A generator that has come to its end would look like no records."""
        if isinstance(self.items, GeneratorType) and self.items.gi_frame is None:
            raise SourceError(
                "E302", "the generator was read to its end already", at=f"Items {self.name!r}", got=self.items,
                try_="a list, or the function that makes it: Items(function)",
            )  # fmt: skip

    def partitions(self) -> Sequence[str]:
        return (self.name,)

    def open(self, partition: str, position: int = 0) -> Reader:
        if isinstance(self.items, Sequence):
            return SequenceReader(self.items, position)
        return IteratorReader(self.items, position, self.name)


class SequenceReader(Reader):
    """Slices of a sequence."""

    def __init__(self, items: Sequence[Any], position: int) -> None:
        self._items = items
        self._next = position

    def read(self, max_records: int) -> Chunk | None:
        start = self._next
        records = list(self._items[start : start + max_records])
        self._next += len(records)
        return Chunk(records, range(start, self._next)) if records else None


class IteratorReader(Reader):
    """Takes what an iterator brings within about `PATIENCE_S`, so that a slow one does not hold records back."""

    def __init__(self, items: Iterable[Any] | Callable[[], Iterable[Any]], position: int, name: str) -> None:
        self._items = items
        self._iterator: Iterator[Any] | None = None
        self._next = 0
        self._position = position
        self._name = name
        self._group = 1
        self._error: Exception | None = None

    def read(self, max_records: int) -> Chunk | None:
        started_s = time.monotonic()
        records = self._take(min(max_records, self._group))
        self._group = (
            max(1, self._group // 2) if time.monotonic() - started_s > PATIENCE_S else min(self._group * 2, max_records)
        )
        start, self._next = self._next, self._next + len(records)
        return Chunk(records, range(start, self._next)) if records else None

    def _take(self, number: int) -> list[Any]:
        records: list[Any] = []
        try:
            if self._error is not None:
                raise self._error
            if self._iterator is None:
                self._iterator = iter(self._items() if callable(self._items) else self._items)
                self._next = sum(1 for _ in islice(self._iterator, self._position))
            records.extend(islice(self._iterator, number))
        except Exception as error:  # the user's own code; its error becomes the source's
            if records:  # what came before the error is sent on first
                self._error = error
                return records
            at = f"{self._name}/{self._next}"
            raise SourceError("E309", f"the iterable raised {type(error).__name__}", at=at, got=str(error)) from error
        return records
