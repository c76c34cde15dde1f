"""Stages at the end of a stream: sinks, and lists in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

from sage.errors import SageError, SinkError
from sage.flow.graph import StepPlan
from sage.flow.sink import PASSING, Rejected, SinkContext, SyncedWriter, Writer
from sage.record import Batch
from sage.runtime.context import RuntimeContext
from sage.runtime.deadletters import reason_of
from sage.runtime.durable import Taken
from sage.runtime.failures import GaveUp, Interrupted
from sage.runtime.stage import Stage
from sage.runtime.stock import Stock

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0
"""Between two looks whether a sink has room again."""


class TerminalStage(Stage):
    """Where records end well."""

    def push(self, batch: Batch) -> None:
        self.stats.received += len(batch)
        started = perf_counter()
        self.accept(batch)
        took = perf_counter() - started
        self.stats.busy_s += took
        self.stats.calls.record(took / len(batch), len(batch))

    def accept(self, batch: Batch) -> None:
        raise NotImplementedError

    def settle(self, batch: Batch) -> None:
        """All of `batch` is written, now or by an earlier run of the job."""
        self.stats.written += len(batch)
        now = self.context.clock.monotonic()
        for part in batch.lineage:
            self.stats.latency.record(max(0.0, now - part.ticket.read_s), part.count)
            self.context.ledger.settle(part.ticket, part.count)


class CollectStage(TerminalStage):
    """Keeps the records in a list."""

    def __init__(self, plan: StepPlan, context: RuntimeContext) -> None:
        super().__init__(plan, context)
        self.records: list[Any] = []
        self._stock: Stock | None = None
        self._kept = 0

    def open(self) -> None:
        durability = self.context.durability
        if durability is not None:
            self._stock = Stock(durability, self)
            held = durability.held(self.plan.name)
            self.records = durability.collected(self.plan.name) if held is None else held
            self._kept = len(self.records)

    def accept(self, batch: Batch) -> None:
        if self._stock is None:
            self.records += batch.records
            self.settle(batch)
            return
        with self._stock.taking():
            new, known = self._stock.split(batch)
            if known is not None:
                self.settle(known)
            if new.records:
                self.records += new.records
                self._stock.add(new.lineage)
                self.settle(new)

    def take_stock(self) -> Taken | None:
        assert self._stock is not None
        with self._stock.taken() as lineage:
            records, self._kept = self.records[self._kept :], len(self.records)
            return Taken(None, (), records, lineage) if records else None

    def holding(self) -> list[Any]:
        return self.records


class SinkStage(TerminalStage):
    """Writes to a sink. What becomes of the output is decided at the end of the run, by `commit` or `abort`."""

    def __init__(self, plan: StepPlan, context: RuntimeContext) -> None:
        super().__init__(plan, context)
        self._writer: Writer | None = None
        self._stock: Stock | None = None

    def open(self) -> None:
        durability = self.context.durability
        if durability is not None and durability.takes_stock_of(self.plan):
            self._stock = Stock(durability, self)
            self._writer = durability.held(self.plan.name)
        if self._writer is None:
            with _sink_errors(self.plan.name, Exception):
                self._writer = self.plan.operator.open(self._sink_context())

    def commit(self) -> None:
        """The run went well: make the output visible."""
        if self._writer is not None:
            with _sink_errors(self.plan.name, Exception):
                self._writer.commit()
            self._writer = None

    def abort(self) -> str | None:
        """The run did not go well. Returns where the output so far was put aside, if it was."""
        writer, self._writer = self._writer, None
        return None if writer is None else writer.abort()

    def accept(self, batch: Batch) -> None:
        if self._stock is None:
            self._write(batch, 1)
            return
        with self._stock.taking():
            new, known = self._stock.split(batch)
            if known is not None:
                self.settle(known)
            if new.records:
                self._write(new, 1)

    def take_stock(self) -> Taken | None:
        """What was written since the last time, after it was made safe."""
        assert self._stock is not None
        with self._stock.taken() as lineage:
            if not lineage or self._writer is None:
                return None
            if not isinstance(self._writer, SyncedWriter):
                raise SinkError(
                    "E556", "the sink says that it is safe at_sync, and its writer has no sync",
                    at=f"step {self.plan.name!r}", got=type(self._writer).__name__, expected="a SyncedWriter",
                )  # fmt: skip
            with _sink_errors(self.plan.name, Exception):
                return Taken(self._writer.sync(), (), (), lineage)

    def holding(self) -> Writer | None:
        writer, self._writer = self._writer, None
        return writer

    def _sink_context(self) -> SinkContext:
        context = SinkContext(self.context.pipeline, self.plan.name, self.context.append)
        durability = self.context.durability
        if durability is None:
            return context
        place = durability.output(self.plan.name)
        return replace(context, job=durability.job, place=place, committing=durability.committing)

    def _written(self, batch: Batch) -> None:
        if self._stock is not None:
            self._stock.add(batch.lineage)
        self.settle(batch)

    def _write(self, batch: Batch, attempts: int) -> None:
        """Write `batch`; halve a batch that fails until the records at fault are alone."""
        try:
            try:
                self._try(batch)
            except (SinkError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 -- any other exception may be one record's fault
                self.failures.retry(lambda: self._try(batch), error, attempts)
        except GaveUp as end:
            if len(batch) == 1:
                self.failures.bury(batch, 0, end.cause, end.attempts)
                return
            half, spent = len(batch) // 2, self.plan.retries + 1
            self._write(batch.slice(0, half), spent)
            self._write(batch.slice(half, len(batch)), spent)
        except Interrupted:
            return

    def _try(self, batch: Batch) -> None:
        assert self._writer is not None
        rejected = self._patiently(self._writer, batch)
        if not rejected:
            self._written(batch)
            return
        mask = [True] * len(batch)
        for refusal in rejected:
            mask[refusal.index] = False
            self.failures.bury(batch, refusal.index, refusal.error)
        if any(mask):
            self._written(batch.select(mask))

    def _patiently(self, writer: Writer, batch: Batch) -> Sequence[Rejected]:
        """A job with a directory does not end because there is no room: it says so, and waits until there is."""
        durability = self.context.durability
        waits = durability is not None and durability.job != ""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                with _sink_errors(self.plan.name, OSError):  # any other exception may be one record's fault
                    return writer.write(batch.records, batch.rids)
            except SinkError as error:
                if not waits or error.code not in PASSING:
                    raise
                self.stats.parked, self.stats.parked_reason = len(batch), reason_of(error)
                in_time = self.context.control.pause(wait_s)
                self.stats.parked = 0
                if not in_time:
                    raise
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)


@contextmanager
def _sink_errors(step: str, kind: type[Exception]) -> Iterator[None]:
    """An exception of `kind`, if it is not one of SAGE's own, becomes a `SinkError` that says which step it was."""
    try:
        yield
    except SageError:
        raise
    except kind as error:
        raise SinkError("E556", "the sink cannot be written", at=f"step {step!r}", got=reason_of(error)) from error
