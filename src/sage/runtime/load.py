"""How full the way to a task is, and where that is going; and what each host of a run does. Gathered where it happens,
and told with the heartbeats: nobody is asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sage.runtime.stats import StepStats

SAMPLE_S = 0.02
SAMPLES = 32


@dataclass(frozen=True, slots=True)
class BufferLoad:
    """Of the buffer behind a connection."""

    load: float = 0.0
    """The part of it that is taken: 1 is full."""
    trend_per_s: float = 0.0
    """What `load` gained a second, over the last looks; negative while it empties."""


class LoadHistory:
    """The last `SAMPLES` looks at one buffer, at most one every `SAMPLE_S`. One writer; readers may miss the last."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._next_s = 0.0

    def see(self, now_s: float, load: float) -> None:
        """The buffer was so full."""
        if now_s >= self._next_s:
            self._next_s = now_s + SAMPLE_S
            self._samples.append((now_s, load))

    def load(self, now: float) -> BufferLoad:
        """That it is so full `now`, and the slope of a line through the last looks (least squares)."""
        samples = tuple(self._samples)
        if len(samples) < 2:
            return BufferLoad(now)
        middle_s = sum(at for at, _ in samples) / len(samples)
        spread = sum((at - middle_s) ** 2 for at, _ in samples)
        slope = sum((at - middle_s) * load for at, load in samples) / spread if spread else 0.0
        return BufferLoad(now, slope)


def fullest(loads: Iterable[BufferLoad]) -> BufferLoad:
    """Of several ways to one task, that which holds its producers up most."""
    return max(loads, key=lambda one: one.load, default=BufferLoad())


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """One host of a run, as its last heartbeat told."""

    name: str
    slots: int
    """Calls that its workers can run at once."""
    in_flight: int
    """Records inside its steps."""
    service_s: float | None
    """Seconds that a record takes in its steps, on average; None before there was one."""
    memory_bytes: int
    """Its own; 0 where it was not told."""
    attempt: int
    """How often the hosts of the run were started: what an earlier attempt says counts no more."""


def host_snapshot(name: str, steps: Mapping[str, Sequence[StepStats]], memory_bytes: int, attempt: int) -> HostSnapshot:
    """What a host with these figures does."""
    parts = [part for some in steps.values() for part in some]
    ended = sum(p.emitted + p.filtered + p.merged + p.dead_lettered + p.written - p.created for p in parts)
    received = sum(part.received for part in parts)
    return HostSnapshot(
        name=name,
        slots=sum(part.slots or 1 for part in parts),
        in_flight=max(0, received - ended),
        service_s=sum(part.busy_s for part in parts) / received if received else None,
        memory_bytes=memory_bytes,
        attempt=attempt,
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """One of the hosts that a router chooses from."""

    host: str
    speed: float
    """Measured; 1 is the mean of all."""
    given: int
    """Pieces of work that it ever got."""
    outstanding: int
    """Those that it has now."""
    score: float | None
    """In the last decision: the lowest wins; None: it could not have had it."""


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """Who gets the records of one task, and why it was so the last time."""

    task: str
    scheduler: str
    cost_s: float
    """Learned: what a record takes on a host of speed 1."""
    reason: str
    hosts: tuple[Routed, ...]
