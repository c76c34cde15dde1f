"""Edges between hosts: what goes in as a batch at an `Outlet` comes out as a batch of a `QueueInbox`.

A queue holds few items, each of many records. How many follows the time that an item takes behind the queue: one at
first, more while the queue is drained at once, fewer when the producer has to wait for long. So quick steps get large
batches, and of slow ones no instance holds many records that another could work on.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sage.errors import QueueBroken, QueueClosed, QueueError, RecordError
from sage.flow.graph import RECORDS_PER_BATCH, TaskPlan
from sage.flow.shipping import pack, unpack
from sage.queues import Queue
from sage.record import Batch, Lineage, Ticket, merge
from sage.runtime.control import Aborted, Control
from sage.runtime.deadletters import reason_of
from sage.runtime.failures import Failures
from sage.runtime.inbox import LINGER_S
from sage.runtime.reading import QUICK_S, SLOW_S
from sage.runtime.reports import Reports, Stamp
from sage.runtime.router import most_of

ITEMS_PER_WORKER = 2
"""Items that a queue holds for each instance behind it, or for each producer if these are more: with less room than
producers, each item that is taken would wake them all."""
MOST_FOR_PRODUCERS = 256
"""Items that a queue holds at most for the sake of producers."""
LARGEST_ITEM = RECORDS_PER_BATCH // 4
LARGEST_ITEM_BYTES = 1 << 20
"""Beyond it, items get fewer records, down to one."""
LOOK_SHARE = 10.0
"""How much longer than a look at the queue took nobody looks again."""
SPAN_S = 0.1
SOON_S = 0.02
"""An item may have what an instance gets in that time, though the queue is full: each has its price."""
VERDICT_S = 10.0
"""How long to wait for the driver to say what to do, after a process at the other end died."""

Item = tuple[Any, ...]
"""Host and number of the stamp, how many records, and what `pack` made of records, keys and lineage."""
COUNT = 2
"""Where an item says how many records are in it."""
ROUTED_PLACES = 1024
"""In the queue of a host that a router gives its pieces to, and not more of them than the host may have: so many that a
producer on another machine need not ask for each."""


class Outlet:
    """The way into a queue, for one worker: what an inbox is within a host. The driver closes the queue at its end."""

    def __init__(
        self,
        queue_: Queue[Item],
        *,
        largest: int,
        instances: int,
        producers: int,
        reports: Reports,
        failures: Failures,
        control: Control,
    ) -> None:
        self.records = 0
        """How many were put."""
        self._instances = instances
        self._producers = producers
        self._queue = queue_
        queue_.batch_size = 1  # an item is a batch already: it need not wait for others
        self._largest = largest
        self._reports = reports
        self._failures = failures  # of the step behind the queue: a record that cannot go there fails as if in it
        self._control = control
        self._size = 1
        self._look_at_s = 0.0
        self._used_soon = 0.0
        self._since_s, self._before = time.monotonic(), 0
        self._seen = 0.0
        self._putting_since_s = math.inf

    @property
    def fill(self) -> float:
        """The part of the queue that was taken when this last looked; 1 while it waits for room. From any thread."""
        return 1.0 if time.monotonic() - self._putting_since_s > SLOW_S else self._seen

    def put(self, batch: Batch) -> None:
        """Send `batch`; waits while the queue is full. Raises `Aborted`."""
        start = 0
        share = -(-len(batch) // self._instances)  # or one instance would get all that came, and others nothing
        while start < len(batch):
            stop = min(start + min(self._size, share), len(batch))
            self._send(batch if stop - start == len(batch) else batch.slice(start, stop))
            start = stop

    def producer_done(self) -> None:
        """Everything is in the queue, which the driver closes when the last producer has ended. Raises `Aborted`."""
        with self._endings():
            self._queue.wait_for_pending_puts()

    def _send(self, batch: Batch) -> None:
        packed = self._item_of(batch)
        if packed is not None:
            self._deliver(batch, *packed)

    def _deliver(self, batch: Batch, item: Item, size_bytes: int) -> None:
        started = time.monotonic()
        try:
            self._put([item])
        except QueueBroken:
            raise
        except QueueError as error:  # too large
            self._send_halves(batch, error)
            return
        self._adapt(started, size_bytes)

    def _item_of(self, batch: Batch) -> tuple[Item, int] | None:
        """As it goes into the queue, and its bytes; None where it cannot be packed: then its parts were sent."""
        try:
            data, buffers = _packed(batch)
        except Exception as error:  # noqa: BLE001 -- any exception of a record's own __reduce__
            self._send_halves(batch, error)
            return None
        size_bytes = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
        return (*self._reports.stamp(), len(batch), data, *buffers), size_bytes

    def _put(self, items: Sequence[Item]) -> None:
        self._control.check()
        self._putting_since_s = time.monotonic()
        try:
            with self._endings():
                if len(items) == 1:
                    self._queue.put(items[0])
                else:
                    self._queue.put_batch(items)
        finally:
            self._putting_since_s = math.inf
        self.records += sum(item[COUNT] for item in items)

    @contextmanager
    def _endings(self) -> Iterator[None]:
        try:
            yield
        except QueueClosed:
            raise Aborted from None  # it is not closed before its producers have ended, but for an abort
        except QueueBroken as error:
            await_verdict(self._control, error)

    def _send_halves(self, batch: Batch, error: Exception) -> None:
        """Send what can be sent of a batch that cannot, and make the rest dead letters."""
        if len(batch) > 1:
            half = len(batch) // 2
            self._send(batch.slice(0, half))
            self._send(batch.slice(half, len(batch)))
            return
        refused = RecordError(
            "E417", f"the record cannot be sent to another process ({reason_of(error)})", got=batch.records[0],
            try_="records of plain values, or of importable classes",
        )  # fmt: skip
        self._failures.refuse(batch, refused)

    def _adapt(self, started: float, size_bytes: int) -> None:
        now = time.monotonic()
        if now - self._since_s > SPAN_S:
            each_s = (self.records - self._before) / (now - self._since_s) / self._instances
            self._used_soon, self._since_s, self._before = each_s * SOON_S, now, self.records
        is_slow, is_sole = now - started > SLOW_S, self._instances == 1
        if is_slow or is_sole:
            self._seen = float(is_slow)
        if size_bytes > LARGEST_ITEM_BYTES or (is_slow and not is_sole):
            self._size = max(1, self._size // 2)
        elif self._size >= self._largest or size_bytes > LARGEST_ITEM_BYTES // 2:
            return
        elif is_sole:  # nobody else could have a part of it: of whom waits for all, less at a time is only more work
            self._size = min(self._largest, self._size * 2)
        elif now >= self._look_at_s:
            if self._size * 2 <= self._used_soon or self._is_drained():
                self._size = min(self._largest, self._size * 2)
            looked = time.monotonic()  # from another node it is a question, for which nothing else should wait often
            self._look_at_s = looked + max(QUICK_S, LOOK_SHARE * (looked - now))

    def _is_drained(self) -> bool:
        """Whether little but the last item of each producer is in the queue."""
        with self._endings():
            waiting = self._queue.qsize()
        self._seen = waiting / capacity_of(self._instances, self._producers)
        return waiting <= max(2, self._producers)


class QueueInbox:
    """The end of a queue at one instance: what an `Inbox` is within a host. Used by one thread."""

    def __init__(
        self,
        queue_: Queue[Item],
        *,
        step: str,
        reports: Reports,
        ticket_of: Callable[[int], Ticket],
        control: Control,
    ) -> None:
        self.records = 0
        """How many were taken."""
        self._queue = queue_
        self._step = step
        self._reports = reports
        self._ticket_of = ticket_of
        self._control = control
        self._rest: Batch | None = None

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """As `Inbox.take`."""
        first = self._rest or self._next(None)
        self._rest = None
        if first is None:
            return None
        batch = merge([first, *self._more(most - len(first))]) if full else first
        if len(batch) > most:
            self._rest = batch.slice(most, len(batch))
            batch = batch.slice(0, most)
        return batch

    @property
    def room(self) -> int:
        """How many items the queue holds."""
        return self._queue.maxsize or MOST_FOR_PRODUCERS

    def fetch(self, items: int) -> list[Batch]:
        """Wait for an item, then take what is there, up to so many `items`; nothing at the end. Raises `Aborted`."""
        self._control.check()
        try:
            return [self._unpacked(item) for item in self._queue.get_batch(items)]
        except QueueClosed:
            self._control.check()
            return []
        except QueueBroken as error:
            await_verdict(self._control, error)

    def _more(self, wanted: int) -> Iterator[Batch]:
        until = time.monotonic() + LINGER_S
        while wanted > 0 and (batch := self._next(max(0.0, until - time.monotonic()))) is not None:
            wanted -= len(batch)
            yield batch

    def _next(self, timeout_s: float | None) -> Batch | None:
        """The next item; None at the end, or when the time is over."""
        self._control.check()
        try:
            item = self._queue.get(timeout=timeout_s)
        except (queue.Empty, QueueClosed):
            self._control.check()
            return None
        except QueueBroken as error:
            await_verdict(self._control, error)
        return self._unpacked(item)

    def _unpacked(self, item: Item) -> Batch:
        host, report, count, data, *buffers = item
        self._reports.rest_on(Stamp(host, report))
        try:
            records, keys, lineage = unpack(data, buffers)
        except Exception as error:
            raise RecordError(
                "E418", f"{count:,} records cannot be unpickled in this process ({reason_of(error)})",
                at=f"step {self._step!r}", try_="classes that can be imported in every process",
            ) from error  # fmt: skip
        self.records += count
        parts = [Lineage(self._ticket_of(number), size, origin) for number, size, origin in lineage]
        return Batch(records, tuple(parts), keys)


def capacity_of(instances: int, producers: int) -> int:
    """How many items the queue of so many instances holds."""
    return ITEMS_PER_WORKER * max(instances, min(producers, MOST_FOR_PRODUCERS // ITEMS_PER_WORKER))


def queues_of(task: TaskPlan, producers: int, routed: Sequence[int] = ()) -> list[int]:
    """How many items fit into each queue of a task that is fed from other hosts: one, or one per instance if keyed, or
    one for each of the hosts with so many slots that a router chooses from."""
    if routed:
        return [max(ROUTED_PLACES, 2 * most_of(slots)) for slots in routed]
    if task.keyed:
        return [capacity_of(1, producers)] * task.instances
    return [capacity_of(task.instances, producers)]


def largest_item(capacity: int, instances: int) -> int:
    """How many records an item may have: an inbox of this `capacity`, divided among those who take from it twice."""
    return max(1, min(LARGEST_ITEM, capacity // (ITEMS_PER_WORKER * instances)))


def far_ticket(number: int) -> Ticket:
    """A ticket away from home."""
    return Ticket("", 0, 0, 0, 0.0, number=number)


def await_verdict(control: Control, error: QueueBroken) -> NoReturn:
    """A process at the other end died. The driver knows which, and ends the run with a better reason than `error`."""
    control.aborted.wait(VERDICT_S)
    control.check()
    raise error


def _packed(batch: Batch) -> tuple[bytes, list[Any]]:
    lineage = [(part.ticket.number, part.count, part.origin.condensed()) for part in batch.lineage]
    return pack((batch.records, batch.keys, lineage))
