"""Calls that wait for their turn at what several steps and jobs share: what an engine and an operator agree on."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """An endpoint that operators ask, at one moment; everybody's requests together."""

    name: str
    limit: int
    """Requests that it is given at once."""
    in_flight: int
    waiting: int
    """Requests that wait for their turn at it, or at another one that would do as well."""
    tokens_per_s: float
    parked: int
    """How often it asked to wait (429, 503) up to now."""
    opens_in_s: float | None
    """0 if it is asked now; else it is left alone for so long, or (None) until it has answered the one request that
    tries it."""
    trouble: str
    """Why it is left alone; empty if it is not."""

    @property
    def is_open(self) -> bool:
        """It is asked now."""
        return self.opens_in_s == 0


class Admission(Protocol):
    """How calls of an operator wait for their turn, where that is decided outside the engine: at shared endpoints.

    Every call tells `WATCH` when it `waits` and when it `goes`. An engine whose step is adaptive then keeps a few calls
    waiting, and as many at work as are let in.
    """

    def figures(self) -> tuple[EndpointFigures, ...]:
        """From any thread."""

    def hurry(self) -> None:
        """The run is to stop: calls that can only go when an endpoint comes back raise `EndpointBusy` from now on."""


class Watch(Protocol):
    """The engine's side of one call. To be told on the event loop of the call."""

    def waits(self) -> None:
        """The call waits for its turn; that time does not count for the step's `timeout_s`. So it begins."""

    def goes(self) -> None:
        """Its turn has come; its time runs anew."""


WATCH: ContextVar[Watch | None] = ContextVar("sage_watch", default=None)
"""Of the call that is being made; None outside a run, and for operators without an `Admission`."""
