"""The queues of this machine, put together from what every process posted, and their Prometheus text."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage.errors import shorten
from sage.metrics import Registry, prometheus_text
from sage.queues import board
from sage.queues.board import HandleFigures, Posting
from sage.queues.descriptor import kinds

SILENT_S = 3.0
"""A process that has posted nothing for so long is stopped, or very busy: its rates are over."""
_FULL = 0.9
_NOTICEABLE = 0.05


@dataclass(frozen=True, slots=True)
class HandleView:
    """A handle, as one process of the machine has it."""

    process: int
    program: str
    silent_s: float
    """How long ago the process posted this; 0 unless that is unusual."""
    open_for_s: float
    figures: HandleFigures

    @property
    def role(self) -> str:
        """What it did so far: ``producer``, ``consumer``, ``both`` or ``neither``."""
        puts, gets = self.figures.stats.total_puts > 0, self.figures.stats.total_gets > 0
        return {(True, False): "producer", (False, True): "consumer", (True, True): "both"}.get((puts, gets), "neither")

    @property
    def puts_per_s(self) -> float | None:
        """Over the last two seconds or so; None where it is not known yet."""
        return self._per_s(self.figures.stats.total_puts - self.figures.earlier.total_puts)

    @property
    def gets_per_s(self) -> float | None:
        """The same of what was got."""
        return self._per_s(self.figures.stats.total_gets - self.figures.earlier.total_gets)

    @property
    def put_wait(self) -> float | None:
        """Seconds that its threads waited for room, per second."""
        return self._per_s(self.figures.stats.put_wait_s - self.figures.earlier.put_wait_s)

    @property
    def get_wait(self) -> float | None:
        """Seconds that its threads waited for items, per second."""
        return self._per_s(self.figures.stats.get_wait_s - self.figures.earlier.get_wait_s)

    def _per_s(self, growth: float) -> float | None:
        if self.silent_s:
            return 0.0
        return growth / self.figures.between_s if self.figures.between_s > 0 else None


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue, as all processes of the machine that have it open see it together."""

    name: str
    kind: str
    maxsize: int | None
    depth: int
    """As the last of them said."""
    handles: tuple[HandleView, ...]

    @property
    def filled(self) -> float | None:
        """From 0 to 1; None where there is no bound."""
        return None if self.maxsize is None else self.depth / self.maxsize

    @property
    def puts_per_s(self) -> float | None:
        """Of all processes; None where it is not known yet."""
        return _sum(handle.puts_per_s for handle in self.handles)

    @property
    def gets_per_s(self) -> float | None:
        """Of all processes; None where it is not known yet."""
        return _sum(handle.gets_per_s for handle in self.handles)

    @property
    def put_wait(self) -> float | None:
        """Of all processes: 1.0 means that one thread, or two for half of the time, did nothing but wait for room."""
        return _sum(handle.put_wait for handle in self.handles)

    @property
    def get_wait(self) -> float | None:
        """The same of waiting for items."""
        return _sum(handle.get_wait for handle in self.handles)

    @property
    def slow_side(self) -> str | None:
        """Who the others wait for, ``producers`` or ``consumers``; None while nobody waits.

        A queue that is full tells as well, whoever waited longer.
        """
        put_wait, get_wait = self.put_wait or 0.0, self.get_wait or 0.0
        if self.filled is not None and self.filled >= _FULL:
            return "consumers"
        if max(put_wait, get_wait) < _NOTICEABLE:
            return None
        return "consumers" if put_wait > get_wait else "producers"


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def overview(postings: Sequence[Posting] | None = None) -> list[QueueView]:
    """Every queue that a process of this user has open on this machine, by name.

    Raises E507 where the folder of the postings is not this user's own.
    """
    now_s = time.monotonic()
    found: dict[str, list[tuple[float, HandleView]]] = defaultdict(list)
    for posting in board.read() if postings is None else postings:
        age_s = now_s - posting.posted_at_s
        for figures in posting.handles:
            view = HandleView(
                process=posting.process,
                program=posting.program,
                silent_s=age_s if age_s > SILENT_S else 0.0,
                open_for_s=max(0.0, now_s - figures.opened_at_s),
                figures=figures,
            )
            found[figures.identity].append((posting.posted_at_s, view))
    return sorted(map(_merged, found.values()), key=lambda queue: (queue.name, queue.kind))


def _merged(posted: Sequence[tuple[float, HandleView]]) -> QueueView:
    latest = max(posted, key=lambda pair: pair[0])[1].figures
    costs = {kind.kind: kind.cost for kind in kinds()}
    return QueueView(
        name=latest.queue_id,
        # some may have open what is behind it for others, and that is cheaper
        kind=max((handle.figures.kind for _, handle in posted), key=lambda kind: costs.get(kind, math.inf)),
        maxsize=latest.maxsize,
        depth=latest.stats.depth,
        handles=tuple(handle for _, handle in posted),
    )


def metrics_text() -> str:
    """The queues of `overview` as Prometheus text: one series for each queue and process.

    ``sage_queue_depth`` and ``sage_queue_maxsize`` are those of the whole queue, as each process sees them: take
    ``max by (queue)``, not the sum.
    """
    registry = Registry()
    for queue in overview():
        for handle in queue.handles:
            _register(registry, queue, handle)
    return prometheus_text(registry.collect())


def _register(registry: Registry, queue: QueueView, handle: HandleView) -> None:
    labels = {"queue": shorten(queue.name), "kind": shorten(queue.kind), "process": str(handle.process)}
    stats = handle.figures.stats
    for name, help_, total in (
        ("puts", "Items put.", stats.total_puts),
        ("gets", "Items got.", stats.total_gets),
        ("batch_puts", "Calls of put_batch.", stats.batch_puts),
        ("batch_gets", "Calls of get_batch.", stats.batch_gets),
        ("in_bytes", "Bytes put, where items are not passed by reference.", stats.bytes_in),
        ("out_bytes", "Bytes got, where items are not passed by reference.", stats.bytes_out),
        ("put_wait_seconds", "Seconds that threads waited for room.", stats.put_wait_s),
        ("get_wait_seconds", "Seconds that threads waited for items.", stats.get_wait_s),
    ):
        registry.counter(f"sage_queue_{name}_total", help_, **labels).add(total)
    for name, help_, value in (
        ("depth", "Items in the queue.", stats.depth),
        ("maxsize", "How many items fit; absent where any number does.", queue.maxsize),
        ("buffer_size", "Items that wait in the process to be sent.", stats.buffer_size),
        ("pending_batches", "Batches on their way that have not arrived.", stats.pending_batches),
    ):
        if value is not None:
            registry.gauge(f"sage_queue_{name}", help_, **labels).set(value)
