"""Both ends of an edge that a router serves: `RoutedOutlet` where records go in, `Metered` where they come out."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sage.errors import QueueClosed
from sage.queues import Queue, SharedMemoryQueue
from sage.record import Batch
from sage.runtime.edges import COUNT, LARGEST_ITEM_BYTES, Item, Outlet
from sage.runtime.inbox import Inbox, Supply
from sage.runtime.router import Line, Router

Told = Callable[[int, float], object]
"""So many records were done, in so many seconds of one worker."""


class RoutedOutlet(Outlet):
    """The way into the queues of all hosts of a task, for one worker that brings there what waits in `hall`."""

    def __init__(self, queues: Sequence[Queue[Item]], name: str, router: Router, hall: Inbox, **more: Any) -> None:
        super().__init__(queues[0], **more)
        for each in queues:
            each.batch_size = 1
        self._queues = queues
        self._router = router
        self._line = Line(name)
        self._hall = hall
        self._host = 0
        self._held: dict[int, list[Batch]] = {}
        self._at_most = self._largest

    @property
    def fill(self) -> float:
        return self._router.fill

    def put(self, batch: Batch) -> None:
        """Send `batch`, piece by piece; waits while the scheduler has nobody for it. Raises `Aborted`.

        What goes to one host leaves together, as long as there is somebody for the next piece.
        """
        start = 0
        share = -(-len(batch) // len(self._queues))  # or one host would get all that came, and others nothing
        while start < len(batch):
            most = min(share, self._at_most)
            chosen = self._router.assign(self._line, len(batch) - start, most, waits=not self._held)
            if chosen is None:
                self._send_held()
                continue
            host, count = chosen
            piece = batch if count == len(batch) else batch.slice(start, start + count)
            self._held.setdefault(host, []).append(piece)
            start += count
        self._send_held()
        self._hall.capacity = self._router.room

    def _send_held(self) -> None:
        held, self._held = self._held, {}
        for host, pieces in held.items():
            small: list[Item] = []
            for piece in pieces:
                self._host, self._queue = host, self._queues[host]
                packed = self._item_of(piece)
                if packed is not None and packed[1] <= LARGEST_ITEM_BYTES:
                    small.append(packed[0])
                    self._adapt(0.0, packed[1])
                elif packed is not None:
                    self._deliver(piece, *packed)
            self._queue = self._queues[host]
            if small:
                self._put(small)

    def producer_done(self) -> None:
        for each in self._queues:
            self._queue = each
            super().producer_done()

    def _send_halves(self, batch: Batch, error: Exception) -> None:
        self._router.withdraw(self._host, len(batch))
        if len(batch) > 1:
            half = len(batch) // 2
            self.put(batch.slice(0, half))
            self.put(batch.slice(half, len(batch)))
        else:
            super()._send_halves(batch, error)

    def _adapt(self, started: float, size_bytes: int) -> None:
        """How many records follows from their time, as long as they are not large."""
        if size_bytes > LARGEST_ITEM_BYTES:
            self._at_most = max(1, self._at_most // 2)
        elif size_bytes <= LARGEST_ITEM_BYTES // 2:
            self._at_most = min(self._largest, self._at_most * 2)


def move(queues: Sequence[Queue[Item]], router: Router, host: int) -> None:
    """Offer the next piece that waits in the queue of `host` to all of them anew, if that is in memory shared with it:
    over a link more would be sent ahead to this end than it gets, and be lost to the host when the input ends."""
    if not isinstance(queues[host], SharedMemoryQueue):
        return
    with suppress(queue.Empty, QueueClosed):  # it was begun meanwhile, or the run ends
        item = queues[host].get_nowait()
        queues[router.again(host, item[COUNT])].put(item)


class Metered:
    """A supply that tells what its worker has done with what it took before."""

    def __init__(self, supply: Supply, told: Told) -> None:
        self._supply = supply
        self._told = told
        self._records = 0
        self._since_s = 0.0

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """As `Supply.take`."""
        if self._records:
            self._told(self._records, time.monotonic() - self._since_s)
        batch = self._supply.take(most, full=full)
        self._records = 0 if batch is None else len(batch)
        self._since_s = time.monotonic()
        return batch
