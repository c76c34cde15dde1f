"""What one step did, counted by the one thread (or event loop) that does it, and added up when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage.flow.admission import EndpointFigures
from sage.metrics import Histogram
from sage.record import Batch


class StepStats:
    """Counters of one step in one worker. One writer; readers may be a batch behind."""

    __slots__ = (
        "aged", "ages_s", "busy_s", "calls", "created", "dead_lettered", "emitted", "endpoints", "filtered", "latency",
        "merged", "parked", "parked_reason", "paused_s", "read", "received", "retries", "slots", "step", "turned_s",
        "turns", "written",
    )  # fmt: skip

    def __init__(self, step: str) -> None:
        self.step = step
        self.received = 0
        self.emitted = 0
        self.read = 0
        self.created = 0
        self.written = 0
        self.filtered = 0
        self.merged = 0
        self.dead_lettered = 0
        self.retries = 0
        self.parked = 0
        self.parked_reason = ""
        self.slots = 0
        self.turns = 0
        self.endpoints: tuple[EndpointFigures, ...] = ()
        self.busy_s = 0.0
        self.paused_s = 0.0
        """Of `busy_s`: between two attempts."""
        self.turned_s = 0.0
        """Of `busy_s`: waiting for turns at an endpoint."""
        self.ages_s = 0.0
        """Of the head of a task: seconds from the read of each record to its arrival here, added up."""
        self.aged = 0
        """Over so many: of records that come from another host nobody knows."""
        self.calls = Histogram()
        """Seconds per record in the operator."""
        self.latency = Histogram()
        """At sinks: seconds from the read of a record's chunk to its write."""

    def arrived(self, batch: Batch, now_s: float) -> None:
        """A worker takes up `batch`."""
        for part in batch.lineage:
            if part.ticket.read_s:
                self.ages_s += part.count * (now_s - part.ticket.read_s)
                self.aged += part.count


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """What a step has done up to now, over all its instances."""

    name: str
    kind: str
    received: int
    emitted: int
    waiting: int
    """Records in the inbox in front of it (0 for a step that is fused behind another)."""
    in_flight: int
    """Records inside it."""
    dead_lettered: int
    retries: int
    parked: int
    """Records that wait because an endpoint asked to."""
    parked_reason: str
    busy_s: float
    slots: int
    """Calls it can run at once; of an adaptive step, at this moment."""
    p50_s: float | None
    p99_s: float | None
    turns: int = 0
    """Of those in flight, calls that wait for their turn at an endpoint."""
    endpoints: tuple[EndpointFigures, ...] = ()
    """Those that it asks. Other steps and jobs of the process may ask them too."""
    load: float = 0.0
    """How full the buffer in front of it is, as its producers last saw it: 1 is full."""
    load_trend_per_s: float = 0.0
    """What that gained a second."""
    begins_s: float | None = None
    """Mean seconds from the read of a record to the moment at which the step took it up; None for a step that is fused
    behind another or works in another process."""
    waits_s: float = 0.0
    """Of `busy_s`: calls waited for their turn at an endpoint, or for their next attempt."""

    def utilisation(self, elapsed_s: float) -> float:
        """Share of its slots that were busy, 0 to 1."""
        return min(1.0, self.busy_s / (elapsed_s * self.slots)) if elapsed_s > 0 else 0.0


def add_up(name: str, kind: str, parts: Sequence[StepStats], *, waiting: int, slots: int) -> StepSnapshot:
    """One snapshot of all workers of a step."""
    calls = _merged(part.calls for part in parts)
    received = sum(part.received for part in parts)
    endpoints = tuple({each.name: each for part in parts for each in part.endpoints}.values())
    closed = None if any(each.is_open for each in endpoints) else next(iter(endpoints), None)
    turns = sum(part.turns for part in parts)
    aged = sum(part.aged for part in parts)
    ended = sum(p.emitted + p.filtered + p.merged + p.dead_lettered + p.written - p.created for p in parts)
    return StepSnapshot(
        name=name,
        kind=kind,
        received=received,
        emitted=sum(part.emitted for part in parts),
        waiting=waiting,
        in_flight=max(0, received - ended),
        dead_lettered=sum(part.dead_lettered for part in parts),
        retries=sum(part.retries for part in parts),
        parked=sum(part.parked for part in parts) + (turns if closed else 0),
        parked_reason=_reason(closed) if closed and turns else next((p.parked_reason for p in parts if p.parked), ""),
        busy_s=sum(part.busy_s for part in parts),
        slots=sum(part.slots for part in parts) or slots,
        p50_s=calls.quantile(0.5),
        p99_s=calls.quantile(0.99),
        turns=turns,
        endpoints=endpoints,
        begins_s=sum(part.ages_s for part in parts) / aged if aged else None,
        waits_s=sum(part.paused_s + part.turned_s for part in parts),
    )


def _reason(closed: EndpointFigures) -> str:
    why = closed.trouble or "it asked for a pause"  # and an answer that was under way has come since
    return f"waiting for the endpoint {closed.name}: {why}"


def latency_of(parts: Iterable[StepStats]) -> tuple[float | None, float | None]:
    """p50 and p99 in seconds, from read to written, over all sinks."""
    latency = _merged(part.latency for part in parts)
    return latency.quantile(0.5), latency.quantile(0.99)


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram()
    for histogram in histograms:
        total.merge(histogram)
    return total
