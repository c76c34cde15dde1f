"""What a host tells of its records: numbered reports, in which events and what they rest on stay together.

The ends of records are told by the host where they happen, and so are the births of their children. A report that
tells the end of a child can be quicker than that of another host which tells its birth. So every batch that leaves a
host is stamped with the number of the report that holds all that was done before; whoever takes the batch names this
number in its own next report; and the driver (`books.py`) enters a report only with all those that it rests on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sage.clock import Clock
from sage.errors import InternalError
from sage.record import Ticket
from sage.runtime.deadletters import LetterBox, Sealed
from sage.runtime.ledger import Ledger
from sage.runtime.stats import StepStats

INTERVAL_S = 0.005
"""The time between two reports of a busy host. The sources wait for reports when many records are open."""
CALM_S, BUSY = 0.02, 50
"""The same where the last had fewer records than `BUSY`: none of the sources will wait for so few."""
SHARE_S = 0.001
"""The same as the part of it for each host."""
SELDOM_S = 0.01
"""Who does a record in more than this time tells each soon: nothing would gather, and what is given ahead runs out."""


class Stamp(NamedTuple):
    """What a batch rests on: the reports of `host` up to `report`."""

    host: int
    report: int


class Terms(NamedTuple):
    """What a worker, or a host, adds to the account of the run, from its beginning; dead letters count where they are
    kept."""

    entered: int = 0
    """Records opened in the ledger: chunks of sources, results of reductions."""
    read: int = 0
    created: int = 0
    written: int = 0
    filtered: int = 0
    merged: int = 0

    @classmethod
    def of(cls, parts: Sequence[StepStats], entered: int) -> Terms:
        """The terms of a worker whose stages have these figures."""
        read = created = written = filtered = merged = 0
        for part in parts:
            read += part.read
            created += part.created
            written += part.written
            filtered += part.filtered
            merged += part.merged
        return cls(entered, read, created, written, filtered, merged)

    @classmethod
    def sum(cls, terms: Iterable[Terms]) -> Terms:
        """Of several workers, or hosts."""
        return cls(*map(sum, zip(cls(), *terms, strict=True)))


@dataclass(slots=True)
class Report:
    """What the workers of a host did since its last report."""

    host: int
    number: int
    needs: dict[int, int] = field(default_factory=dict)
    """By host: the number of its report that has to be entered before this one, or with it."""
    changes: dict[int, int] = field(default_factory=dict)
    """By number of a ticket: how many more, or fewer, of its records are open."""
    terms: Terms | None = None
    """Of the host, if they changed."""
    letters: list[Sealed] = field(default_factory=list)
    buried: int = 0
    """How many letters there are, or were before they were kept."""
    done: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By task that a router serves: so many records, in so many seconds of its workers."""

    @property
    def is_empty(self) -> bool:
        return not (self.changes or self.terms or self.letters or self.done)

    def __reduce__(self) -> tuple[Any, ...]:
        """Quicker than what dataclasses bring; there are many."""
        parts = self.host, self.number, self.needs, self.changes, self.terms, self.letters, self.buried, self.done
        return Report, parts


class Reports:
    """Gathers what the workers of one host publish. `send` gets a report every few milliseconds while there is news,
    the more seldom the more `hosts` there are: the driver reads them all.

    `close` sends what is left. Used from any thread.
    """

    def __init__(self, host: int, send: Callable[[Report], None], hosts: int = 1) -> None:
        self._send = send
        self._rest_s = self._told_s = 0.0
        self._interval_s = max(INTERVAL_S, hosts * SHARE_S)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._open = Report(host, 1)
        self._ledgers: list[WorkerLedger] = []
        self._terms: dict[str, Terms] = {}
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sage-reports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ledger_of(self, worker: str, entries: Ledger | None) -> WorkerLedger:
        """The ledger of one worker; chunks and results of reductions are entered in `entries` at once."""
        ledger = WorkerLedger(worker, self, entries)
        self._ledgers.append(ledger)
        return ledger

    def take_in(self, worker: str, changes: Mapping[int, int], terms: Terms, letters: Sequence[Sealed]) -> None:
        """Add to the open report."""
        with self._lock:
            report = self._open
            for number, records in changes.items():
                report.changes[number] = report.changes.get(number, 0) + records
            report.terms = self._terms[worker] = terms
            report.letters += letters
            report.buried += len(letters)
        self._wake()

    def done(self, task: str, records: int, took_s: float) -> None:
        """A worker of a task that a router serves has done so many records."""
        with self._lock:
            before, before_s = self._open.done.get(task, (0, 0.0))
            self._open.done[task] = before + records, before_s + took_s
        self._wake()

    def stamp(self) -> Stamp:
        """For a batch that leaves the host now, after its worker published."""
        with self._lock:
            report = self._open
            return Stamp(report.host, report.number - 1 if report.is_empty else report.number)

    def rest_on(self, stamp: Stamp) -> None:
        """A batch with this stamp has come: what is done from now on rests on it."""
        with self._lock:
            needs = self._open.needs
            if stamp.host != self._open.host and needs.get(stamp.host, 0) < stamp.report:
                needs[stamp.host] = stamp.report

    def close(self) -> None:
        """Publish for all workers, which have ended or are stuck in a call, and send the last report."""
        for ledger in self._ledgers:
            ledger.publish()
        self._closed.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def _wake(self) -> None:
        if not self._news.is_set():
            self._news.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            self.flush()
            self._closed.wait(self._rest_s)

    def flush(self) -> None:
        """Send the open report, if there is anything in it."""
        with self._sending:  # reports leave in the order of their numbers
            with self._lock:
                report = self._open
                if report.is_empty:
                    return
                self._rest_s = self._rest(report, time.monotonic())
                self._open = Report(report.host, report.number + 1)
                if report.terms is not None:
                    report.terms = Terms.sum(self._terms.values())
            self._send(report)

    def _rest(self, report: Report, now_s: float) -> float:
        """How long to gather for the report after this one."""
        records = max(sum(map(abs, report.changes.values())), sum(records for records, _ in report.done.values()))
        is_seldom = records * SELDOM_S < now_s - self._told_s
        self._told_s = now_s
        return self._interval_s if is_seldom or records >= BUSY else max(CALM_S, self._interval_s)


class WorkerLedger(Ledger):
    """The ledger as one worker of a run with several hosts sees it."""

    def __init__(self, worker: str, reports: Reports, entries: Ledger | None) -> None:
        self._worker = worker
        self._reports = reports
        self._entries = entries
        self._changes: dict[int, int] = {}
        self._published = Terms()
        self._entered = 0
        self.letters: list[Sealed] = []
        self.stats: list[StepStats] = []
        """The figures of the worker's stages."""

    @property
    def most_at_once(self) -> int:
        return self._at_home().most_at_once

    def open(self, partition: str, first: int, last: int, records: int, now_s: float) -> Ticket:
        ticket = self._at_home().open(partition, first, last, records, now_s)
        self._entered += records
        return ticket

    def create(self, step: str, records: int, now_s: float) -> Ticket:
        self._entered += records
        return self._at_home().create(step, records, now_s)

    def exhausted(self, partition: str) -> None:
        self._at_home().exhausted(partition)

    def grow(self, ticket: Ticket, records: int) -> None:
        self._changes[ticket.number] = self._changes.get(ticket.number, 0) + records

    def settle(self, ticket: Ticket, records: int) -> None:
        self._changes[ticket.number] = self._changes.get(ticket.number, 0) - records

    def publish(self) -> None:
        terms = Terms.of(self.stats, self._entered)
        if not self._changes and not self.letters and terms == self._published:
            return
        changes, self._changes = self._changes, {}
        letters, self.letters = self.letters, []
        self._published = terms
        self._reports.take_in(self._worker, changes, terms, letters)

    def _at_home(self) -> Ledger:
        if self._entries is None:
            raise InternalError("E990", "a source or reduction away from home", at=f"worker {self._worker!r}")
        return self._entries


class LettersOnTheWay(LetterBox):
    """Dead letters of one worker; they reach the driver, which writes and counts them, with its reports."""

    def __init__(self, ledger: WorkerLedger, pipeline: str, run_id: str, clock: Clock) -> None:
        super().__init__(pipeline, run_id, clock)
        self._ledger = ledger

    def keep(self, letter: Sealed) -> None:
        self._ledger.letters.append(letter)

    def check_limit(self) -> None:
        """The driver does."""
