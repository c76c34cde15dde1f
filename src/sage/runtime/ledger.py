"""The ledger: which source records are finished. It is in memory and lives as long as its run."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from sage.errors import InternalError
from sage.record import Lineage, Ticket
from sage.runtime.control import Control


class Ledger(ABC):
    """What becomes of records, as stages tell it. Each worker tells what it does itself."""

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

    def settle_all(self, lineage: Sequence[Lineage]) -> None:
        """All these records have come to an end."""
        for part in lineage:
            self.settle(part.ticket, part.count)

    def publish(self) -> None:  # noqa: B027 -- one that everybody shares has nothing to tell
        """The worker is between two batches, or hands one on: what it did so far may be told to others."""


class Book(Ledger):
    """Counts the open records of every chunk read. A partition's position moves past a chunk when it, and every
    chunk before it, has nothing open; `open` waits while more than `max_open` records are open."""

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
            while self._open > self._max_open:
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
            self._advance(ticket.partition)

    def _tell_room(self) -> None:
        if self._open <= self._max_open:
            self._room.notify_all()

    def _advance(self, partition: str) -> None:
        tickets = self._tickets.get(partition)
        while tickets and tickets[0].open == 0:
            self._positions[partition] = tickets.popleft().last

    def _wake(self) -> None:
        with self._room:
            self._room.notify_all()
