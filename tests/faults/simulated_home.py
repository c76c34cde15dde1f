"""Stages of the simulated world: the source and the sinks at home, and what every process does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from simulated_world import KEYS

from sage.flow.source import Chunk
from sage.record import Batch, Lineage
from sage.runtime.control import Aborted
from sage.runtime.durable import Taken
from sage.runtime.reading import unfinished
from sage.runtime.reports import Report, Reports, Stamp
from sage.runtime.stats import StepStats
from sage.runtime.stock import Stock

MOST_OPEN = 10


class Keeping:
    """A stage at home that takes records up: a file of lines, or sums by key."""

    def __init__(self, run: Any, name: str, instance: int = 0) -> None:
        self.plan: Any = SimpleNamespace(name=name)
        self.world = run.world
        held = run.handover.held(name)
        self.stock = Stock(run.handover, self)
        if held is None:
            self._go_on(run)
        self._changed: set[int] = set()

    def _go_on(self, run: Any) -> None:
        if self.plan.name == "lines":
            del self.world.lines[run.handover.output("lines") or 0 :]
        else:
            self.world.sums = dict(run.handover.state("sums"))

    def accept(self, batch: Batch, settle: Callable[[Batch], None]) -> None:
        with self.stock.taking():
            new, known = self.stock.split(batch)
            if known is not None:
                settle(known)
            if new.records:
                self._write(new.records)
                self.stock.add(new.lineage)
                settle(new)

    def _write(self, records: list[int]) -> None:
        if self.plan.name == "lines":
            self.world.lines += records
            return
        for n in records:
            self.world.sums[n % KEYS] = self.world.sums.get(n % KEYS, 0) + n
            self._changed.add(n % KEYS)

    def take_stock(self) -> Taken | None:
        with self.stock.taken() as lineage:
            if not lineage:
                return None
            if self.plan.name == "lines":
                return Taken(len(self.world.lines), (), (), lineage)
            changed, self._changed = self._changed, set()
            return Taken(None, [(key, self.world.sums.get(key, 0)) for key in changed], (), lineage)

    def holding(self) -> Any:
        return self.world


class Party:
    """A process with one worker: it reports what it does, and sends batches with what they rest on."""

    def __init__(self, attempt: Any, number: int) -> None:
        self.attempt, self.number, self.world = attempt, number, attempt.world
        self.reports = Reports(number, self._send)
        self.ledger = self.reports.ledger_of(f"worker {number}", attempt.book if number == 0 else None)
        self.stats = StepStats("step")
        self.ledger.stats.append(self.stats)
        self._latest_s = 0.0
        self._due = False

    def publish(self) -> Stamp:
        self.ledger.publish()
        if not self._due:
            self._due = True
            self.world.after(0.005, self._flush)
        return self.reports.stamp()

    def _flush(self) -> None:
        self._due = False
        self.reports.flush()

    def _send(self, report: Report) -> None:
        """Reports of one host come in order, and at any time."""
        self._latest_s = max(self._latest_s, self.world.now_s + self.world.some_s(0.2))
        self.world.after(self._latest_s - self.world.now_s, lambda: self.attempt.take(report))


class Home(Party):
    """The source and the sinks."""

    def __init__(self, attempt: Any) -> None:
        super().__init__(attempt, 0)
        self.lines = Keeping(attempt.run, "lines")
        self.sums = Keeping(attempt.run, "sums")
        before = attempt.run.handover.progress("in")
        everything = Chunk(list(range(self.world.records)), list(range(self.world.records)))
        start = 0 if before.position is None else before.position + 1
        rest = Chunk(everything.records[start:], everything.positions[start:])
        self._left = list(unfinished(rest, before).records) if not before.complete else []
        self._reading = False

    def read(self) -> None:
        """As much as may be open; when all is read and finished, the attempt is over."""
        if self._reading or self.attempt.dispatcher.state != "running":
            return
        self._reading = True
        while self._left and self.attempt.book.open_records + 4 <= MOST_OPEN:
            some = [self._left.pop(0) for _ in range(min(len(self._left), self.world.chance.randint(1, 4)))]
            ticket = self.ledger.open("in", some[0], some[-1], len(some), self.world.now_s)
            self.stats.read += len(some)
            batch = Batch(list(some), (Lineage.of_source(ticket, some),))
            stamp, host = self.publish(), self.world.chance.choice(self.attempt.hosts)
            self.world.after(self.world.some_s(0.1), partial(host.arrived, batch, stamp))
        self._reading = False
        if not self._left:
            self.ledger.exhausted("in")
            if self.attempt.book.open_records == 0 and self.attempt.books.waiting == 0:
                self.attempt.finish()

    def arrived(self, batch: Batch, stamp: Stamp) -> None:
        """The sinks take it when they come to it."""
        if self.attempt.run.over:
            return
        self.reports.rest_on(stamp)
        for take in (self._insert, partial(self._accept, self.lines), partial(self._accept, self.sums)):
            self.world.after(self.world.some_s(0.05), partial(take, batch))

    def _accept(self, keeper: Keeping, batch: Batch) -> None:
        if self.attempt.run.over:
            return
        try:
            keeper.accept(batch, self._settle)
        except Aborted:
            return

    def _insert(self, batch: Batch) -> None:
        if not self.attempt.run.over:
            for rid in batch.rids:
                self.world.table[rid] = 1
            self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        self.stats.written += len(batch)
        self.ledger.settle_all(batch.lineage)
        self.publish()
