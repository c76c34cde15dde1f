"""The ledger: which source records are finished. It is in memory and lives as long as its run."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from types import MappingProxyType

from sage.errors import InternalError
from sage.record import Lineage, Ticket
from sage.runtime.control import Control
from sage.runtime.durable import Cut, Progress

MAX_OPEN_RECORDS = 10_000
"""Records read and not yet finished at most, if nothing else is said; then the sources wait."""
CHUNKS = 8
"""At least so many chunks are in them: one waits until there is room for all of it, which is empty meanwhile."""


class Ledger(ABC):
    """What becomes of records, as stages tell it. Each worker tells what it does itself."""

    @property
    @abstractmethod
    def most_at_once(self) -> int:
        """No source reads more records at once."""

    @abstractmethod
    def open(self, partition: str, first: int, last: int, records: int, now_s: float) -> Ticket:
        """Enter a chunk of `records` open records (at least one). Waits for room; raises `Aborted`."""

    @abstractmethod
    def create(self, step: str, records: int, now_s: float) -> Ticket:
        """Enter records that a reduction made. Never waits."""

    @abstractmethod
    def grow(self, ticket: Ticket, records: int) -> None:
        """`records` more are open: children or copies of records of this ticket."""

    @abstractmethod
    def settle(self, ticket: Ticket, records: int) -> None:
        """`records` of the ticket have come to an end."""

    def exhausted(self, partition: str) -> None:  # noqa: B027 -- only who outlives the run wants to know
        """There is nothing more in a partition of a source."""

    def settle_all(self, lineage: Sequence[Lineage]) -> None:
        """All these records have come to an end."""
        for part in lineage:
            self.settle(part.ticket, part.count)

    def publish(self) -> None:  # noqa: B027 -- one that everybody shares has nothing to tell
        """The worker is between two batches, or hands one on: what it did so far may be told to others."""


class Book(Ledger):
    """Counts the open records of every chunk read. A partition's position moves past a chunk when it, and every
    chunk before it, has nothing open; `open` waits while more than `max_open` records would be open; a chunk
    that alone is larger waits until none is."""

    def __init__(self, control: Control, max_open: int) -> None:
        self._control = control
        self._max_open = max_open
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._numbers = count(1)
        self._open = 0
        self._by_number: dict[int, Ticket] = {}
        self._tickets: dict[str, deque[Ticket]] = {}
        self._positions: dict[str, int] = {}
        control.on_abort(self._wake)

    def open(self, partition: str, first: int, last: int, records: int, now_s: float) -> Ticket:
        with self._room:
            while self._open and self._open + records > self._max_open:
                self._control.check()
                self._room.wait()
            ticket = self._enter(Ticket(partition, first, last, records, now_s, number=next(self._numbers)))
            self._tickets.setdefault(partition, deque()).append(ticket)
        return ticket

    def create(self, step: str, records: int, now_s: float) -> Ticket:
        with self._lock:
            return self._enter(Ticket(step, 0, records - 1, records, now_s, number=next(self._numbers)))

    def grow(self, ticket: Ticket, records: int) -> None:
        with self._lock:
            ticket.open += records
            self._open += records

    def settle(self, ticket: Ticket, records: int) -> None:
        if not records:
            return  # the ticket may be gone
        with self._room:
            self._change(ticket, -records)
            self._tell_room()

    def change(self, changes: Iterable[Mapping[int, int]]) -> None:
        """Add all of these up: by number of a ticket, how many more (or fewer) of its records are open."""
        with self._room:
            total: dict[int, int] = {}
            for some in changes:
                for number, records in some.items():
                    total[number] = total.get(number, 0) + records
            for number, records in total.items():
                if records:
                    self._change(self.ticket(number), records)
            self._tell_room()

    def ticket(self, number: int) -> Ticket:
        """The ticket of this number. Raises `InternalError` E901 if none of its records is open."""
        ticket = self._by_number.get(number)
        if ticket is None:
            raise InternalError("E901", "a record came, or ended, after all of its chunk had ended", got=number)
        return ticket

    def position(self, partition: str) -> int | None:
        """Everything at or below this position is finished; None if nothing is."""
        with self._lock:
            return self._positions.get(partition)

    @property
    def most_at_once(self) -> int:
        return max(1, self._max_open // CHUNKS)

    def limit(self, max_open: int) -> None:
        """From now on so many; from any thread."""
        with self._room:
            self._max_open = max_open
            self._room.notify_all()

    @property
    def open_records(self) -> int:
        return self._open

    def _enter(self, ticket: Ticket) -> Ticket:
        self._open += ticket.open
        self._by_number[ticket.number] = ticket
        return ticket

    def _change(self, ticket: Ticket, records: int) -> None:
        ticket.open += records
        self._open += records
        if ticket.open == 0:
            del self._by_number[ticket.number]
            self._finished(ticket)

    def _tell_room(self) -> None:
        if self._open <= self._max_open:
            self._room.notify_all()

    def _finished(self, ticket: Ticket) -> None:
        tickets = self._tickets.get(ticket.partition)
        while tickets and tickets[0].open == 0:
            self._positions[ticket.partition] = tickets.popleft().last

    def _wake(self) -> None:
        with self._room:
            self._room.notify_all()


class DurableBook(Book):
    """Remembers what has changed since the last `cut`, and begins where earlier runs ended."""

    def __init__(
        self, control: Control, max_open: int, progress: Callable[[str], Progress],
        base: Mapping[str, Progress] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """`progress` tells what earlier runs finished, `base` what an earlier book of this run knows better."""
        super().__init__(control, max_open)
        self._before = progress
        self._base = base
        self._progress: dict[str, Progress] = {}
        self._records: dict[int, int] = {}
        self._moved: dict[str, int] = {}
        """By partition: records finished since the last cut."""
        self._ended: set[int] = set()

    def open(self, partition: str, first: int, last: int, records: int, now_s: float) -> Ticket:
        ticket = super().open(partition, first, last, records, now_s)
        self._records[ticket.number] = records  # nobody else knows of the ticket yet
        return ticket

    def exhausted(self, partition: str) -> None:
        """There is nothing more in it."""
        with self._lock:
            self._progress[partition] = replace(self._of(partition), complete=True)
            self._moved.setdefault(partition, 0)

    def successor(self, control: Control) -> DurableBook:
        """A book that goes on where this one, which nobody writes in any more, stands: with what is finished, and
        without what is open. It tells what this one has not told yet."""
        cut = self.cut()
        base = {**self._base, **{partition: self._told(partition) for partition in self._progress}}
        book = DurableBook(control, self._max_open, self._before, base)
        book._numbers = self._numbers
        book._ended, book._moved = set(cut.finished), dict.fromkeys(cut.partitions, 0)
        return book

    @property
    def finished_before(self) -> int:
        """Source records that earlier books of this run have seen finished."""
        return sum(progress.records - self._before(partition).records for partition, progress in self._base.items())

    def progress(self, partition: str) -> Progress:
        """What was finished when this book began."""
        return self._base[partition] if partition in self._base else self._before(partition)

    def cut(self) -> Cut:
        """What was finished up to this moment, and not told before."""
        with self._lock:
            moved, self._moved = self._moved, {}
            ended, self._ended = self._ended, set()
            for partition, records in moved.items():
                self._progress[partition] = self._moved_on(partition, self._of(partition), records)
            told = {partition: self._told(partition) for partition in moved}
        return Cut(ended, told)

    def _finished(self, ticket: Ticket) -> None:
        super()._finished(ticket)
        if ticket.number in self._records:  # of a source: results of a reduction come again as long as the job lives
            self._ended.add(ticket.number)
            records = self._records.pop(ticket.number)
            self._moved[ticket.partition] = self._moved.get(ticket.partition, 0) + records

    def _of(self, partition: str) -> Progress:
        return self._progress.get(partition) or self.progress(partition)

    def _moved_on(self, partition: str, before: Progress, records: int) -> Progress:
        """Stretches that are finished behind one that is not become one where they touch."""
        tickets = self._tickets.get(partition, deque())
        merged: deque[Ticket] = deque()
        for ticket in tickets:
            if merged and ticket.open == 0 and merged[-1].open == 0:
                merged[-1].last = ticket.last
            else:
                merged.append(ticket)
        self._tickets[partition] = merged
        position = self._positions.get(partition, before.position)
        beyond = [(ticket.first, ticket.last) for ticket in merged if ticket.open == 0]
        return replace(before, position=position, records=before.records + records, beyond=tuple(beyond))

    def _told(self, partition: str) -> Progress:
        """With the stretches that earlier runs finished, as long as the position is before them."""
        progress = self._progress[partition]
        before = self.progress(partition).beyond
        old = [one for one in before if progress.position is None or one[1] > progress.position]
        complete = progress.complete and not self._tickets.get(partition)
        return replace(progress, beyond=(*old, *progress.beyond), complete=complete)
