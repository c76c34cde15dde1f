"""The stage that reads a source: as much at a time as keeps the pipeline busy, and no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import compress
from time import perf_counter
from typing import Any

from sage.errors import RecordError, SageError, SourceError
from sage.flow.graph import StepPlan
from sage.flow.source import Chunk, Reader, Source
from sage.record import Batch, Given, Lineage, Ticket
from sage.runtime.context import RuntimeContext
from sage.runtime.deadletters import reason_of
from sage.runtime.durable import Progress
from sage.runtime.stage import Stage

FIRST_CHUNK = 16
QUICK_S = 0.001
SLOW_S = 0.01


class SourceStage(Stage):
    """Reads all partitions, one after the other. The size of a chunk follows the time that a chunk takes behind it:
    small at first, so that the first record is out at once, then larger while chunks are quick."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, largest_chunk: int) -> None:
        super().__init__(plan, context)
        self._largest = largest_chunk
        self._size = min(FIRST_CHUNK, largest_chunk)

    def run(self) -> None:
        """Read to the end, or until a stop; then finish."""
        source: Source = self.plan.operator
        with source_errors(self.plan.name):
            partitions = source.partitions()
        for partition in partitions:
            self._read(source, partition)
        self.finish()

    def _read(self, source: Source, partition: str) -> None:
        control = self.context.control
        name = self._name_of(source, partition)
        before = self._before(source, partition)
        if control.stopping.is_set() or before.complete:
            return
        with source_errors(self.plan.name):
            reader = self._opened(source, partition, before)
        try:
            while not control.stopping.is_set():
                started = perf_counter()
                with source_errors(self.plan.name):
                    chunk = reader.read(min(self._size, self.context.ledger.most_at_once))
                if chunk is None:
                    self.context.ledger.exhausted(name)
                    return
                if before.beyond:
                    chunk = unfinished(chunk, before)
                took = perf_counter() - started
                self.stats.busy_s += took
                self._enter(name, chunk)
                self.context.ledger.publish()
                control.check()
                self._adapt(perf_counter() - started)
        finally:
            reader.close()

    def _name_of(self, source: Source, partition: str) -> str:
        durability = self.context.durability
        return partition if durability is None else durability.partition(partition, replayable=source.replayable)

    def _opened(self, source: Source, partition: str, before: Progress) -> Reader:
        durability = self.context.durability
        if durability is not None and not source.replayable:
            return durability.reader(self._name_of(source, partition), partial(source.open, partition))
        return source.open(partition) if before.position is None else source.open(partition, before.position + 1)

    def _before(self, source: Source, partition: str) -> Progress:
        """What earlier runs of the job have finished."""
        durability = self.context.durability
        return durability.progress(partition) if durability is not None and source.replayable else Progress()

    def _enter(self, partition: str, chunk: Chunk) -> None:
        records = len(chunk.records)
        count = records + len(chunk.faults)
        places = bounds(chunk)
        if places is None:
            return
        ticket = self.context.ledger.open(partition, *places, count, self.context.clock.monotonic())
        self.stats.read += count
        self.stats.received += count
        for fault in chunk.faults:
            rids = None if fault.rid is None else [fault.rid]
            part = Batch([fault.raw], (_lineage(ticket, [fault.position], rids),))
            self.failures.bury(part, 0, fault.error)
        if records:
            batch = Batch(chunk.records, (_lineage(ticket, chunk.positions, chunk.rids),))
            self.emit(self._without_none(batch) if _holds_none(chunk.records) else batch)

    def _without_none(self, batch: Batch) -> Batch:
        for index, record in enumerate(batch.records):
            if record is None:
                at = f"step {self.plan.name!r}, record {batch.rids[index]}"
                self.failures.bury(batch, index, RecordError("E402", "None is not a record", at=at))
        return batch.select([record is not None for record in batch.records])

    def _adapt(self, took_s: float) -> None:
        if took_s < QUICK_S:
            self._size = min(self._largest, self._size * 2)
        elif took_s > SLOW_S:
            self._size = max(1, self._size // 2)


def bounds(chunk: Chunk) -> tuple[int, int] | None:
    """Its first and its last position; None if there is nothing in it."""
    places = [*chunk.positions[:1], *chunk.positions[-1:], *(fault.position for fault in chunk.faults)]
    return (min(places), max(places)) if places else None


def unfinished(chunk: Chunk, before: Progress) -> Chunk:
    """The part of `chunk` that was not finished before."""
    mask = [not before.covers(position) for position in chunk.positions]
    return Chunk(
        list(compress(chunk.records, mask)),
        list(compress(chunk.positions, mask)),
        [fault for fault in chunk.faults if not before.covers(fault.position)],
        None if chunk.rids is None else list(compress(chunk.rids, mask)),
    )


def _holds_none(records: list[Any]) -> bool:
    """Asking whether all are true takes a third of the time of asking each what it is, and mostly they are."""
    try:
        if all(records):
            return False
    except Exception:  # noqa: BLE001 -- some objects refuse to be true or false (arrays); ask the slow way
        pass
    return type(None) in set(map(type, records))


def _lineage(ticket: Ticket, positions: Sequence[int], rids: Sequence[str] | None) -> Lineage:
    if rids is None:
        return Lineage.of_source(ticket, positions)
    return Lineage(ticket, len(rids), Given(rids))


@contextmanager
def source_errors(step: str) -> Iterator[None]:
    """Whatever else a source raises becomes a `SourceError` that says which step it was."""
    try:
        yield
    except SageError:
        raise
    except Exception as error:  # the user's own code, or a library's
        raise SourceError("E306", "the source cannot be read", at=f"step {step!r}", got=reason_of(error)) from error
