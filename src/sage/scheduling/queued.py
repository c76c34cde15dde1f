"""How many requests to have in flight at a server that lets them wait and shares its capacity among its clients: SAGE's
gateway. Pure: no I/O, no clock, times come in as arguments.

The law
-------
What is at work there (its answer has begun), once more, and `WAITING`. So a client has always some that wait there, and
its share is what the server gives it and not what it happened to have in flight; it can follow at once when places
come free, and doubles with each answer that begins. More would gain nothing: what waits there can no longer be stopped,
or go elsewhere. The server's own limit is found by feedback, where all clients can be seen (`sage.scheduling.limiter`).
"""

from __future__ import annotations

from typing import Protocol

from sage.scheduling.limiter import FIRST_LIMIT, MOST, Flight, LimitSnapshot

WAITING = 4


class Limiter(Protocol):
    """Of one endpoint: `AdaptiveLimit`, or `QueuedLimit`."""

    @property
    def in_flight(self) -> int: ...

    @property
    def limit(self) -> int: ...

    def begin(self, now: float, prompt_tokens: float = 0.0) -> Flight: ...

    def progress(self, flight: Flight, now: float, output_tokens: float) -> None: ...

    def end(self, flight: Flight, now: float, *, refused: bool = False) -> None: ...

    def report_load(self, now: float, running: float, waiting: float) -> None: ...

    def snapshot(self) -> LimitSnapshot: ...


class QueuedLimit:
    """See the module."""

    def __init__(self, start: int = FIRST_LIMIT, *, most: int = MOST) -> None:
        self.in_flight = 0
        self._least = min(start, WAITING)
        self._most = most
        self._answered = 0

    @property
    def limit(self) -> int:
        """At least 1."""
        return max(1, min(self._most, 2 * self._answered + self._least))

    def begin(self, now: float, prompt_tokens: float = 0.0) -> Flight:
        """A request is sent."""
        self.in_flight += 1
        return Flight(prompt_tokens)

    def progress(self, flight: Flight, now: float, output_tokens: float) -> None:
        """More of an answer has come."""
        self._answered += not flight.answered
        flight.answered = True
        flight.output_tokens += output_tokens

    def end(self, flight: Flight, now: float, *, refused: bool = False) -> None:
        """It is over, in whatever way."""
        self.in_flight -= 1
        self._answered -= flight.answered

    def report_load(self, now: float, running: float, waiting: float) -> None:
        """Nothing follows from that: it is the server's business."""

    def snapshot(self) -> LimitSnapshot:
        waiting = 1 - self._answered / self.in_flight if self.in_flight else 0.0
        return LimitSnapshot(self.limit, self.in_flight, None, waiting, 0.0, 0)
