"""Batches: the unit that moves. Records are plain Python objects in a list; what SAGE knows of them stands beside it.

A `Batch` never wraps a record. Where its records came from is kept for whole stretches at a time (`Lineage`), and
a rid is made only when somebody asks for it: a sink, a dead letter, a journal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, compress, repeat
from typing import Any, overload


class Ticket:
    """One chunk read from a source; the ledger counts how many of its records (or their children) are open."""

    __slots__ = ("first", "last", "number", "open", "partition", "read_s")

    def __init__(
        self, partition: str, first: int, last: int, open_records: int, read_s: float, *, number: int = 0
    ) -> None:
        self.partition = partition
        self.first = first
        self.last = last
        self.open = open_records
        self.read_s = read_s
        self.number = number
        """Names it in other hosts, where a ticket is nothing but this number."""


LONGEST_HISTORY = 64
"""Derivations whose rids are made together at most: each takes a few of the stack frames that Python allows."""


class Origin(ABC):
    """How the rids of neighbouring records are made, as plain data; they are made once, when somebody asks."""

    __slots__ = ("_rids", "depth")

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self._rids: list[str] | None = None

    def rids(self) -> list[str]:
        """One stable id per record. Do not change the list."""
        rids = self._rids  # copies of a stream share their origin, and other threads ask too
        if rids is None:
            rids = self._rids = self._make()
        return rids

    @abstractmethod
    def _make(self) -> list[str]:
        """The ids."""

    @abstractmethod
    def condensed(self) -> Origin:
        """The same ids from as little as possible, to be sent elsewhere."""


class Positions(Origin):
    """Records at `positions` of a partition: rid ``<partition>/<position>``."""

    __slots__ = ("_partition", "_positions")

    def __init__(self, partition: str, positions: Sequence[int]) -> None:
        super().__init__()
        self._partition = partition
        self._positions = positions

    def _make(self) -> list[str]:
        return [f"{self._partition}/{position}" for position in self._positions]

    def condensed(self) -> Origin:
        return self

    def selected(self, mask: Sequence[Any]) -> Positions:
        return Positions(self._partition, list(compress(self._positions, mask)))

    def sliced(self, start: int, stop: int) -> Positions:
        return Positions(self._partition, self._positions[start:stop])

    def __reduce__(self) -> tuple[Any, ...]:
        return Positions, (self._partition, self._positions)


class Given(Origin):
    """Ids that were made before."""

    __slots__ = ()

    def __init__(self, rids: Sequence[str]) -> None:
        super().__init__()
        self._rids = list(rids)

    def _make(self) -> list[str]:
        return self._rids or []

    def condensed(self) -> Origin:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Given, (self._rids,)


class Selected(Origin):
    """Those of `parent` where `mask` is true."""

    __slots__ = ("_mask", "_parent")

    def __init__(self, parent: Origin, mask: Sequence[Any]) -> None:
        super().__init__(parent.depth + 1)
        self._parent = parent
        self._mask = mask

    def _make(self) -> list[str]:
        return list(compress(self._parent.rids(), self._mask))

    def condensed(self) -> Origin:
        parent = self._parent.condensed()
        return parent.selected(self._mask) if isinstance(parent, Positions) else Given(self.rids())


class Sliced(Origin):
    """Those of `parent` from `start` to before `stop`."""

    __slots__ = ("_parent", "_start", "_stop")

    def __init__(self, parent: Origin, start: int, stop: int) -> None:
        super().__init__(parent.depth + 1)
        self._parent = parent
        self._start = start
        self._stop = stop

    def _make(self) -> list[str]:
        return self._parent.rids()[self._start : self._stop]

    def condensed(self) -> Origin:
        parent = self._parent.condensed()
        return parent.sliced(self._start, self._stop) if isinstance(parent, Positions) else Given(self.rids())


class Expanded(Origin):
    """Children: record i becomes ``counts[i]`` records, numbered from ``firsts[i]`` or 0: ``<rid>/<step>/<n>``."""

    __slots__ = ("_counts", "_firsts", "_parent", "_step")

    def __init__(self, parent: Origin, step: str, counts: Sequence[int], firsts: Sequence[int] | None) -> None:
        super().__init__(parent.depth + 1)
        self._parent = parent
        self._step = step
        self._counts = counts
        self._firsts = firsts

    def _make(self) -> list[str]:
        firsts = self._firsts if self._firsts is not None else [0] * len(self._counts)
        return [
            f"{rid}/{self._step}/{ordinal}"
            for rid, count, first in zip(self._parent.rids(), self._counts, firsts, strict=True)
            for ordinal in range(first, first + count)
        ]

    def condensed(self) -> Origin:
        return Expanded(self._parent.condensed(), self._step, self._counts, self._firsts)

    def __reduce__(self) -> tuple[Any, ...]:
        return Expanded, (self._parent, self._step, self._counts, self._firsts)


class Lineage:
    """Where `count` neighbouring records of a batch came from: their ticket, and their rids when asked."""

    __slots__ = ("count", "origin", "ticket")

    def __init__(self, ticket: Ticket, count: int, origin: Origin) -> None:
        self.ticket = ticket
        self.count = count
        self.origin = origin

    @classmethod
    def of_source(cls, ticket: Ticket, positions: Sequence[int]) -> Lineage:
        """Records at `positions` of the ticket's partition: rid ``<partition>/<position>``."""
        return cls(ticket, len(positions), Positions(ticket.partition, positions))

    def rids(self) -> list[str]:
        """One stable id per record. Do not change the list."""
        return self.origin.rids()

    def select(self, mask: Sequence[Any], count: int) -> Lineage:
        """The `count` records where `mask` is true."""
        return Lineage(self.ticket, count, Selected(self._parent(), mask))

    def slice(self, start: int, stop: int) -> Lineage:
        """The records from `start` to before `stop`."""
        return Lineage(self.ticket, stop - start, Sliced(self._parent(), start, stop))

    def expand(self, step: str, counts: Sequence[int], firsts: Sequence[int] | None = None) -> Lineage:
        """Children: record i becomes ``counts[i]`` records, numbered from ``firsts[i]`` or 0: ``<rid>/<step>/<n>``."""
        return Lineage(self.ticket, sum(counts), Expanded(self._parent(), step, counts, firsts))

    def _parent(self) -> Origin:
        return self.origin if self.origin.depth < LONGEST_HISTORY else Given(self.origin.rids())


class Rids(Sequence[str]):
    """The rids of a batch, made when first looked at."""

    __slots__ = ("_lineage",)

    def __init__(self, lineage: Sequence[Lineage]) -> None:
        self._lineage = lineage

    def __len__(self) -> int:
        return sum(part.count for part in self._lineage)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        index = index + len(self) if index < 0 else index
        for part in self._lineage:
            if 0 <= index < part.count:
                return part.rids()[index]
            index -= part.count
        raise IndexError("rid index out of range")

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(part.rids() for part in self._lineage)


class Batch:
    """Records that travel together. `keys`, if set, holds one key per record (after `key_by` or `order_by`)."""

    __slots__ = ("keys", "lineage", "records")

    def __init__(self, records: list[Any], lineage: tuple[Lineage, ...], keys: list[Any] | None = None) -> None:
        self.records = records
        self.lineage = lineage
        self.keys = keys

    def __len__(self) -> int:
        return len(self.records)

    @property
    def rids(self) -> Rids:
        return Rids(self.lineage)

    def with_records(self, records: list[Any]) -> Batch:
        """The same lineage and keys with other records, one for one."""
        return Batch(records, self.lineage, self.keys)

    def select(self, mask: Sequence[Any], records: list[Any] | None = None) -> Batch:
        """The records where `mask` is true; or as many others in their place."""
        kept = list(compress(self.records, mask)) if records is None else records
        keys = None if self.keys is None else list(compress(self.keys, mask))
        if len(self.lineage) == 1:
            return Batch(kept, (self.lineage[0].select(mask, len(kept)),), keys)
        parts = ((part, piece, sum(map(bool, piece))) for part, piece in self.pieces(mask))
        return Batch(kept, tuple(part.select(piece, count) for part, piece, count in parts if count), keys)

    def slice(self, start: int, stop: int) -> Batch:
        """The records from `start` to before `stop` (both within the batch)."""
        keys = None if self.keys is None else self.keys[start:stop]
        if len(self.lineage) == 1:
            return Batch(self.records[start:stop], (self.lineage[0].slice(start, stop),), keys)
        parts = []
        offset = 0
        for part in self.lineage:
            low, high = max(start - offset, 0), min(stop - offset, part.count)
            if low < high:
                parts.append(part if high - low == part.count else part.slice(low, high))
            offset += part.count
        return Batch(self.records[start:stop], tuple(parts), keys)

    def expand(
        self, step: str, children: list[Any], counts: Sequence[int], firsts: Sequence[int] | None = None
    ) -> Batch:
        """Record i replaced by ``counts[i]`` of `children`; a child keeps its parent's key."""
        keys = None if self.keys is None else list(chain.from_iterable(map(repeat, self.keys, counts)))
        if len(self.lineage) == 1:
            return Batch(children, (self.lineage[0].expand(step, counts, firsts),), keys)
        numbers = firsts if firsts is not None else [0] * len(counts)
        parts = zip(self.pieces(counts), (piece for _, piece in self.pieces(numbers)), strict=True)
        lineage = (part.expand(step, piece, first) for (part, piece), first in parts if any(piece))
        return Batch(children, tuple(lineage), keys)

    def pieces(self, column: Sequence[Any]) -> Iterator[tuple[Lineage, Sequence[Any]]]:
        """Each stretch of lineage with its part of `column`, which has one entry per record."""
        ends = accumulate(part.count for part in self.lineage)
        return ((part, column[end - part.count : end]) for part, end in zip(self.lineage, ends, strict=True))


def merge(batches: Sequence[Batch]) -> Batch:
    """One batch of all records of `batches` (at least one), in order; all of them keyed, or none."""
    if len(batches) == 1:
        return batches[0]
    keys = None
    if batches[0].keys is not None:
        keys = list(chain.from_iterable(batch.keys or () for batch in batches))
    records = list(chain.from_iterable(batch.records for batch in batches))
    return Batch(records, tuple(chain.from_iterable(batch.lineage for batch in batches)), keys)
