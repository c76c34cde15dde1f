"""Who is asked next, and by whom: requests whose turn it is on one side, endpoints with their limits on the other.

Pure: no I/O, no clock, times come in as arguments; `sage.llm.pool` performs what it decides.

Requests wait here and never in an endpoint's own queue, where nobody could order, withdraw or move them any more.
Whose turn it is stands in `sage.llm.turns`. Among endpoints with room the choice is the better of two drawn at random
(Mitzenmacher 2001), by outstanding tokens for each place of its limit. A request with a `prefix` prefers the endpoint
that such requests went to before, unless that one has `VETO` times the load of the least loaded one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from zlib import crc32

from sage.llm.breaker import Breaker
from sage.llm.drain import Drain
from sage.llm.headroom import Headroom
from sage.llm.pace import Pace
from sage.llm.turns import MOST_WAITING, Ticket, Turns
from sage.scheduling.limiter import AdaptiveLimit, Flight, LimitSnapshot
from sage.scheduling.queued import Limiter, QueuedLimit

VETO = 1.25
HOLD_S = 0.1
"""For so long the place of a request that ended stays free of lower bands: who asks again at once does not wait
behind the longest answer of a batch."""
SPARE = 1.5
"""A ceiling higher than so many times the limit says nothing: the endpoint is slow before requests wait in it."""
PRESENT_S = 10.0
"""For so long after its last request a band is still there: lower ones leave it room (`sage.llm.headroom`)."""


class Outcome(Enum):
    """How a request ended, as far as its endpoint is concerned."""

    DONE = "done"
    FAILED = "failed"
    """The endpoint's fault."""
    PARKED = "parked"
    """It asked to wait."""
    AWAY = "away"
    """Nothing accepts connections there."""
    UNKNOWN = "unknown"
    """Cancelled, or the prompt's fault."""


@dataclass(slots=True, eq=False)
class Grant:
    """A request that may be sent to `endpoint`; to be ended exactly once."""

    ticket: Ticket
    endpoint: str
    flight: Flight
    at: float


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """One endpoint at one moment."""

    name: str
    healthy: bool
    parked_for_s: float
    outstanding_tokens: float
    limit: LimitSnapshot
    tokens_per_s: float
    """Of answers, lately."""
    parks: int
    """How often it asked to wait, up to now."""


class _Place:
    """An endpoint as the balancer knows it."""

    def __init__(self, name: str, limiter: Limiter) -> None:
        self.name = name
        self.limiter = limiter
        self.breaker = Breaker()
        self.pace = Pace()
        self.headroom = Headroom()
        self.unanswered = self.silent = 0
        """In flight: streams without a first token, and answers that come whole."""
        self.running: Counter[int] = Counter()
        """By band."""
        self.outstanding = 0.0
        self.held: list[tuple[float, int]] = []
        """Places that lower bands do not get: until when, and for which band."""
        self.parks = 0

    def load(self) -> float:
        return self.outstanding / self.limiter.limit

    def has_room(self, now: float, band: float = math.inf, *, modest: bool = False) -> bool:
        """For a request of `band`; a `modest` one must not wait in the endpoint."""
        held = sum(until > now and above > band for until, above in self.held)
        return self.limiter.in_flight + held < self._most(band, modest) and self.breaker.opens_at(now) <= now

    def _most(self, band: float, modest: bool) -> float:
        """In flight. A limit below what the endpoint runs binds the lower bands; a higher one goes all the same."""
        limit, ceiling = self.limiter.limit, self.headroom.ceiling
        if modest:
            return min(limit, max(1, ceiling))
        beside_lower = any(below < band for below in self.running if self.running[below])
        return max(limit, ceiling) if beside_lower and ceiling < SPARE * limit else limit

    def count(self, now: float) -> None:
        self.headroom.counted(now, self.limiter.in_flight, self.unanswered, self.silent)

    def hold(self, now: float, band: int) -> None:
        """A request of `band` ended, and lower ones wait."""
        self.held = [(until, above) for until, above in self.held if until > now]
        self.held.append((now + HOLD_S, band))

    def claim(self, band: int) -> None:
        """A request of `band` got a place: one that was held for it, if there is any."""
        mine = next((entry for entry in self.held if entry[1] == band), None)
        if mine is not None:
            self.held.remove(mine)


class Balancer:
    """See the module. Each endpoint of `names` gets a limiter that begins at `start` and never exceeds `most`: one that
    finds what the endpoint does best with, or, for gateways that let requests `queue`, one that leaves it to them."""

    def __init__(
        self, names: Sequence[str], *, start: int, most: int, most_waiting: int = MOST_WAITING, queue: bool = False
    ) -> None:
        kind: Callable[..., Limiter] = QueuedLimit if queue else AdaptiveLimit
        self._places = {name: _Place(name, kind(start, most=most)) for name in names}
        self._random = random.Random(0)
        self._turns = Turns(most_waiting)
        self._present: dict[int, float] = {}
        """Bands, and when each was last seen."""
        self._drain = Drain()
        self._crowded = False
        """Somebody still waited after the last grants."""

    def wait(self, ticket: Ticket, *, first: bool = False) -> None:
        """Queue it: behind its job's others, or `first` (it was granted before, and its endpoint could not take it).

        Raises `EndpointBusy` E723 if too many wait already.
        """
        self._turns.wait(ticket, first=first)

    def withdraw(self, ticket: Ticket) -> None:
        """It no longer wants to be sent, and never will be."""
        self._turns.withdraw(ticket)

    @property
    def waiting(self) -> int:
        return self._turns.waiting

    def wait_s(self, ticket: Ticket, now: float) -> float:
        """How long `ticket` would wait if it came now: what goes before it, at the rate at which the queue empties.

        0 where there is room, and where too little was seen to know better.
        """
        pause_s = min(place.breaker.opens_at(now) for place in self._places.values()) - now
        ahead, rate = self._turns.ahead(ticket), self._drain.rate(self._open_places(now))
        busy_s = ahead / rate if rate and ahead else 0.0
        return (pause_s if math.isfinite(pause_s) else 0.0) + busy_s

    def _open_places(self, now: float) -> int:
        return sum(place.limiter.limit for place in self._places.values() if place.breaker.opens_at(now) <= now)

    def grants(self, now: float) -> list[Grant]:
        """Every request that can be sent now."""
        granted = []
        self._drain.passed(now, self._open_places(now) if self._crowded else 0)
        while (found := self._next(now)) is not None:
            granted.append(self._send(*found, now))
        self._crowded = bool(self._turns.waiting)
        return granted

    def wakes_at(self, now: float) -> float:
        """When a park or pause ends behind which somebody waits; infinity if only the end of a request can help."""
        if not self._turns.waiting:
            return math.inf
        later = [place.breaker.opens_at(now) for place in self._places.values()]
        later += [until for place in self._places.values() for until, _ in place.held]
        return min((at for at in later if at > now), default=math.inf)

    def progress(self, grant: Grant, now: float, output_tokens: float) -> None:
        """More of its answer has come."""
        place = self._places[grant.endpoint]
        if not grant.flight.answered:
            place.breaker.answered()
            place.unanswered -= 1
            place.count(now)
        place.limiter.progress(grant.flight, now, output_tokens)
        place.pace.came(now, output_tokens)

    def end(self, grant: Grant, now: float, outcome: Outcome, *, retry_after_s: float | None = None) -> None:
        """Its place is free from now on."""
        place = self._places[grant.endpoint]
        ticket, flight = grant.ticket, grant.flight
        place.outstanding -= ticket.tokens
        used = flight.output_tokens + (ticket.prompt_tokens if flight.answered else 0.0)
        if self._turns.lower_wait(ticket.band):
            place.hold(now, ticket.band)
        self._turns.ended(ticket, used)
        self._present[ticket.band] = now
        place.running[ticket.band] -= 1
        place.unanswered -= not flight.answered
        place.silent -= not ticket.streamed
        place.limiter.end(flight, now, refused=outcome in (Outcome.PARKED, Outcome.FAILED, Outcome.AWAY))
        place.count(now)
        match outcome:
            case Outcome.DONE:
                place.breaker.succeeded()
            case Outcome.FAILED:
                place.breaker.failed(now)
            case Outcome.PARKED:
                place.parks += 1
                place.breaker.parked(now, retry_after_s)
            case Outcome.AWAY:
                place.breaker.away(now)
                place.headroom = Headroom()  # what comes back may be another server
            case Outcome.UNKNOWN:
                place.breaker.unknown()

    def is_closed(self, now: float) -> bool:
        """No endpoint may be asked now."""
        return all(place.breaker.opens_at(now) > now for place in self._places.values())

    def report_load(self, endpoint: str, now: float, running: float, waiting: float) -> None:
        """What the endpoint said of itself."""
        place = self._places[endpoint]
        place.limiter.report_load(now, running, waiting)
        place.headroom.told(now, place.limiter.in_flight, running, waiting)

    def snapshot(self, now: float) -> tuple[EndpointSnapshot, ...]:
        return tuple(
            EndpointSnapshot(
                place.name,
                place.breaker.healthy,
                place.breaker.opens_at(now) - now,
                place.outstanding,
                place.limiter.snapshot(),
                place.pace.rate(now),
                place.parks,
            )
            for place in self._places.values()
        )

    def _next(self, now: float) -> tuple[Ticket, _Place] | None:
        if not self._turns.waiting or not any(place.has_room(now) for place in self._places.values()):
            return None
        highest = self._highest(now)
        for line in self._turns.in_order():
            owed = self._turns.is_owed(line)
            band, modest = (math.inf, False) if owed else (line.band, line.band < highest)
            free = [place for place in self._places.values() if place.has_room(now, band, modest=modest)]
            for ticket in self._turns.of(line) if free else ():
                if candidates := [place for place in free if place.name not in ticket.avoid]:
                    return ticket, self._choose(ticket, candidates)
        return None

    def _highest(self, now: float) -> float:
        """Of the bands that wait, run, or were here a moment ago."""
        if len(self._present) > 1:
            self._present = {band: at for band, at in self._present.items() if at + PRESENT_S > now}
        return max(self._turns.bands() | self._present.keys(), default=-math.inf)

    def _choose(self, ticket: Ticket, candidates: list[_Place]) -> _Place:
        if ticket.prefix:
            known = max(self._places.values(), key=lambda place: crc32(f"{place.name} {ticket.prefix}".encode()))
            lightest = min(place.load() for place in candidates)
            if known in candidates and known.load() <= VETO * lightest + ticket.tokens / known.limiter.limit:
                return known
        drawn: Iterable[_Place] = self._random.sample(candidates, 2) if len(candidates) > 2 else candidates
        return min(drawn, key=_Place.load)

    def _send(self, ticket: Ticket, place: _Place, now: float) -> Grant:
        place.outstanding += ticket.tokens
        place.claim(ticket.band)
        place.running[ticket.band] += 1
        place.breaker.sent()
        self._turns.sent(ticket)
        if self._crowded:
            self._drain.left(ticket.tokens, self._open_places(now))
        flight = place.limiter.begin(now, ticket.prompt_tokens)
        if ticket.streamed:
            place.unanswered += 1
        else:
            place.silent += 1
            place.limiter.progress(flight, now, 0.0)
        place.count(now)
        return Grant(ticket, place.name, flight, now)
