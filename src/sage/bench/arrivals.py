"""How records come in a real run, and come home: as in virtual time, in a closed loop or when they come."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Condition
from time import monotonic, sleep

from sage.bench.case import Load
from sage.bench.work import Stamped
from sage.errors import InternalError
from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.flow.source import Chunk, Reader, Source
from sage.simulation import Phase, Poisson, pipeline_named

STALLED_S = 120.0
"""After which nothing more is waited for: no record takes that long."""


class InFlight:
    """How many more records may be on their way. Any thread."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._closed = False
        self._changed = Condition()

    def take(self, wanted: int) -> int:
        """Some of `wanted`, as soon as there is one; 0 when it was closed. Raises E902 if none comes home any more."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free > 0 or self._closed, STALLED_S):
                raise InternalError("E902", "records do not come home any more", got=f"none in {STALLED_S:g} s")
            taken = 0 if self._closed else min(self._free, wanted)
            self._free -= taken
            return taken

    def close(self) -> None:
        """The run is over: whoever waits need not."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give_back(self, count: int) -> None:
        """So many are home."""
        with self._changed:
            self._free += count
            self._changed.notify()


@dataclass(frozen=True)
class Arrivals(Source):
    """The records of a load, stamped with the time at which they should start. Read where the run is started."""

    load: Load
    seed: int
    in_flight: InFlight | None = field(repr=False)
    """None: they come at the load's rate, however many are on their way."""

    @property
    def replayable(self) -> bool:
        return False

    def check(self) -> None:
        """There is nothing that could be missing."""

    def partitions(self) -> Sequence[str]:
        return (self.load.name,)

    def open(self, partition: str, position: int = 0) -> Reader:
        return _Closed(self, self.in_flight) if self.in_flight is not None else _Open(self)

    def phases(self) -> Iterator[Phase]:
        """What each record does: the same as in virtual time."""
        chance = random.Random(f"{self.seed} {self.load.name} records")
        draw = pipeline_named(self.load.pipeline)
        return (draw(chance).phases[0] for _ in range(self.load.tasks))


class Home(Sink):
    """Where records end: stamped with the time, in the process that started the run."""

    def __init__(self, in_flight: InFlight) -> None:
        self.in_flight = in_flight
        self.records: list[Stamped] = []

    def check(self) -> None:
        """There is nothing that could be missing."""

    def open(self, context: SinkContext) -> Writer:
        return _Writer(self)


class _Writer(Writer):
    def __init__(self, home: Home) -> None:
        self._home = home

    def write(self, records: Sequence[Stamped], rids: Sequence[str]) -> Sequence[Rejected]:
        home_s = monotonic()
        self._home.records += [record._replace(home_s=home_s) for record in records]
        self._home.in_flight.give_back(len(records))
        return ()

    def commit(self) -> None:
        """They are where they are."""

    def abort(self) -> str | None:
        return None


class _Closed(Reader):
    """The next is read when one has come home."""

    def __init__(self, arrivals: Arrivals, in_flight: InFlight) -> None:
        self._numbered = enumerate(arrivals.phases())
        self._left = arrivals.load.tasks
        self._in_flight = in_flight

    def read(self, max_records: int) -> Chunk | None:
        count = self._in_flight.take(min(max_records, self._left)) if self._left else 0
        if not count:
            return None
        self._left -= count
        records = [Stamped(number, phase, monotonic()) for number, phase in islice(self._numbered, count)]
        return Chunk(records, range(records[0].number, records[-1].number + 1))


class _Open(Reader):
    """They come when they come. What is late was due at its time all the same."""

    def __init__(self, arrivals: Arrivals) -> None:
        assert arrivals.load.rate_per_s is not None
        chance = random.Random(f"{arrivals.seed} {arrivals.load.name} arrivals")
        times = Poisson(arrivals.load.rate_per_s).times(chance)
        self._due = zip(arrivals.phases(), times, strict=False)
        self._began_s = monotonic()
        self._number = 0
        self._next = next(self._due, None)

    def read(self, max_records: int) -> Chunk | None:
        if self._next is None:
            return None
        sleep(max(0.0, self._began_s + self._next[1] - monotonic()))
        first = self._number
        records: list[Stamped] = []
        while self._next is not None and len(records) < max_records:
            phase, at_s = self._next
            if records and self._began_s + at_s > monotonic():
                break
            records.append(Stamped(self._number, phase, self._began_s + at_s))
            self._number += 1
            self._next = next(self._due, None)
        return Chunk(records, range(first, self._number))
