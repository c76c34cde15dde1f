"""The contract of sources: where records come from, and at which position each one stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sage.errors import RecordError


@dataclass(frozen=True, slots=True)
class Fault:
    """One record that the source could not make sense of. It is counted as read and dead-lettered."""

    position: int
    raw: Any
    """What was read, as text or bytes (at most 64 KB of it), so that it can be mended and replayed."""
    error: RecordError
    """Its text names the place, for example ``E401 not valid JSON at questions.jsonl:7: ...``."""
    rid: str | None = None
    """Where it is not ``<partition>/<position>``; see `Chunk.rids`."""


@dataclass(slots=True)
class Chunk:
    """What one `Reader.read` brought."""

    records: list[Any]
    positions: Sequence[int]
    """One per record, ascending; `range` where they are consecutive."""
    faults: Sequence[Fault] = ()
    rids: Sequence[str] | None = None
    """One per record, where they are not ``<partition>/<position>``: the records have been on their way before, and
    keep the rids that they had."""


class Reader(ABC):
    """A source partition opened at a position. Used by one thread."""

    @abstractmethod
    def read(self, max_records: int) -> Chunk | None:
        """Up to `max_records` records (at least one record or fault), or None at the end for good.

        May block while nothing has arrived; returns what is there rather than wait for `max_records`.
        Raises `SourceError` when the source itself is broken.
        """

    def close(self) -> None:  # noqa: B027 -- most readers hold nothing
        """Let go of files and connections. Called once, also after a failure; unblocks nothing."""


class Source(ABC):
    """A description of where records come from: plain data, picklable, opened where it runs.

    The rid of a record is ``<partition>/<position>``, so `partitions` must name the data and not the run:
    reading the same bytes again gives the same rids.
    """

    @property
    def replayable(self) -> bool:
        """Can be opened again at any position it once gave. A class may simply say ``replayable = False``."""
        return True

    @abstractmethod
    def check(self) -> None:
        """Raise `SourceError` if it can be known now that reading will fail (missing file, a directory, ...).
        Called once before the run; reads no records."""

    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """Ids of the parts that can be read independently, stable over runs; they contain no secrets."""

    @abstractmethod
    def open(self, partition: str, position: int = 0) -> Reader:
        """Start reading `partition` at the first record whose position is >= `position`."""

    def decode(self, raw: Any) -> Any:
        """Make a record of the `raw` of a `Fault`, after somebody has mended it (for replay).

        Raises `RecordError` if it is still broken. The default takes `raw` as the record.
        """
        return raw
