"""Who is asked next, and by whom: waiting requests on one side, endpoints with their limits on the other.

Pure: no I/O, no clock, times come in as arguments; `sage.llm.pool` performs what it decides.

Requests wait here and never in an endpoint's own queue, where nobody could order, withdraw or move them any more.
Among jobs the one goes first that has been served the fewest tokens for its weight (the virtual token counter of Sheng
et al., OSDI '24: a job that comes, or comes back, starts level with the least served one, so that idling earns
nothing); within a job the oldest request. A higher band goes before a lower one, but a band that waits earns `RESERVED`
of the tokens that pass it by, and goes first once it has earned something: it is never starved.
Among endpoints with room the choice is the better of two drawn at random (Mitzenmacher 2001), by outstanding tokens for
each place of its limit. A request with a `prefix` prefers the endpoint that such requests went to before, unless that
one has `VETO` times the load of the least loaded one.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from zlib import crc32

from sage.errors import EndpointBusy
from sage.llm.breaker import Breaker
from sage.llm.drain import Drain
from sage.llm.headroom import Headroom
from sage.llm.pace import Pace
from sage.scheduling.limiter import AdaptiveLimit, Flight, LimitSnapshot

VETO = 1.25
RESERVED = 0.05
MOST_WAITING = 100_000
HOLD_S = 0.1
"""For so long the place of a request that ended stays free of lower bands: who asks again at once does not wait
behind the longest answer of a batch."""
PRESENT_S = 10.0
"""For so long after its last request a band is still there: lower ones leave it room (`sage.llm.headroom`)."""


Line = tuple[int, str]
"""Band and job: a queue of its own."""


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
class Ticket:
    """A request that waits. `tokens` is what it may cost: its prompt and the longest answer, as well as one knows."""

    tokens: float
    prompt_tokens: float = 0.0
    job: str = ""
    prefix: str = ""
    avoid: frozenset[str] = frozenset()
    """Endpoints that failed it already."""
    weight: float = 1.0
    """Of its job: twice the weight is twice the tokens."""
    band: int = 0
    """The higher one goes first."""
    streamed: bool = True
    """Its answer comes as it is made. Another one comes at its end, which is no sign that it waits for its turn."""

    @property
    def line(self) -> Line:
        return (self.band, self.job)


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

    def __init__(self, name: str, limiter: AdaptiveLimit) -> None:
        self.name = name
        self.limiter = limiter
        self.breaker = Breaker()
        self.pace = Pace()
        self.headroom = Headroom()
        self.unanswered = self.silent = 0
        """In flight: streams without a first token, and answers that come whole."""
        self.outstanding = 0.0
        self.held: list[tuple[float, int]] = []
        """Places that lower bands do not get: until when, and for which band."""
        self.parks = 0

    def load(self) -> float:
        return self.outstanding / self.limiter.limit

    def has_room(self, now: float, band: float = math.inf, *, modest: bool = False) -> bool:
        """For a request of `band`; a `modest` one must not wait in the endpoint."""
        held = sum(until > now and above > band for until, above in self.held)
        limit = self.limiter.limit
        most = min(limit, max(1, self.headroom.ceiling)) if modest else limit
        return self.limiter.in_flight + held < most and self.breaker.opens_at(now) <= now

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
    """See the module. Each endpoint of `names` gets a limiter that begins at `start` and never exceeds `most`."""

    def __init__(self, names: Sequence[str], *, start: int, most: int, most_waiting: int = MOST_WAITING) -> None:
        self._places = {name: _Place(name, AdaptiveLimit(start, most=most)) for name in names}
        self._most_waiting = most_waiting
        self._random = random.Random(0)
        self._waiting: dict[Line, OrderedDict[Ticket, None]] = {}
        self._backlog: dict[Line, float] = {}
        """Tokens that wait."""
        self._served: dict[Line, float] = {}
        """Tokens, by weight."""
        self._running: dict[Line, int] = {}
        self._earned: dict[int, float] = {}
        """Of each band that waits, in tokens."""
        self._present: dict[int, float] = {}
        """Bands, and when each was last seen."""
        self._drain = Drain()
        self._crowded = False
        """Somebody still waited after the last grants."""

    def wait(self, ticket: Ticket, *, first: bool = False) -> None:
        """Queue it: behind its job's others, or `first` (it was granted before, and its endpoint could not take it).

        Raises `EndpointBusy` E723 if too many wait already.
        """
        if self.waiting >= self._most_waiting and not first:
            raise EndpointBusy(
                "E723", "too many requests wait for an endpoint", expected=f"at most {self._most_waiting}"
            )
        line = ticket.line
        if line not in self._served:
            level = (served for (band, _), served in self._served.items() if band == ticket.band)
            self._served[line] = min(level, default=0.0)
        queue = self._waiting.setdefault(line, OrderedDict())
        queue[ticket] = None
        self._backlog[line] = self._backlog.get(line, 0.0) + ticket.tokens
        if first:
            queue.move_to_end(ticket, last=False)

    def withdraw(self, ticket: Ticket) -> None:
        """It no longer wants to be sent, and never will be."""
        self._leave(ticket)
        self._tidy(ticket.line)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wait_s(self, ticket: Ticket, now: float) -> float:
        """How long `ticket` would wait if it came now: what goes before it, at the rate at which the queue empties.

        0 where there is room, and where too little was seen to know better.
        """
        pause_s = min(place.breaker.opens_at(now) for place in self._places.values()) - now
        ahead, rate = self._ahead(ticket), self._drain.rate(self._open_places(now))
        busy_s = ahead / rate if rate and ahead else 0.0
        return (pause_s if math.isfinite(pause_s) else 0.0) + busy_s

    def _open_places(self, now: float) -> int:
        return sum(place.limiter.limit for place in self._places.values() if place.breaker.opens_at(now) <= now)

    def _ahead(self, ticket: Ticket) -> float:
        """Tokens that are sent before it: of higher bands all, of its own by weight."""
        higher = sum(tokens for (band, _), tokens in self._backlog.items() if band > ticket.band)
        level = {line: tokens for line, tokens in self._backlog.items() if line[0] == ticket.band}
        own = level.pop(ticket.line, 0.0)
        others = sum(
            min(tokens, (own + ticket.tokens) * next(iter(self._waiting[line])).weight / ticket.weight)
            for line, tokens in level.items()
        )
        return higher + own + others

    def grants(self, now: float) -> list[Grant]:
        """Every request that can be sent now."""
        granted = []
        self._drain.passed(now, self._open_places(now) if self._crowded else 0)
        while (found := self._next(now)) is not None:
            ticket, place = found
            self._leave(ticket)
            granted.append(self._send(ticket, place, now))
            self._tidy(ticket.line)
        self._crowded = bool(self._waiting)
        return granted

    def wakes_at(self, now: float) -> float:
        """When a park or pause ends behind which somebody waits; infinity if only the end of a request can help."""
        if not self._waiting:
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
        self._served[ticket.line] += (used - ticket.tokens) / ticket.weight
        self._running[ticket.line] -= 1
        if any(band < ticket.band for band, _ in self._waiting):
            place.hold(now, ticket.band)
        self._tidy(ticket.line)
        self._present[ticket.band] = now
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
        if not any(place.has_room(now) for place in self._places.values()):
            return None
        highest = self._highest(now)
        for line in sorted(self._waiting, key=self._turn):
            band, modest = (math.inf, False) if self._is_owed(line) else (line[0], line[0] < highest)
            free = [place for place in self._places.values() if place.has_room(now, band, modest=modest)]
            for ticket in self._waiting[line] if free else ():
                if candidates := [place for place in free if place.name not in ticket.avoid]:
                    return ticket, self._choose(ticket, candidates)
        return None

    def _highest(self, now: float) -> float:
        """Of the bands that wait, run, or were here a moment ago."""
        if len(self._present) > 1:
            self._present = {band: at for band, at in self._present.items() if at + PRESENT_S > now}
        bands = {band for band, _ in (*self._waiting, *self._running)}
        return max(bands | self._present.keys(), default=-math.inf)

    def _turn(self, line: Line) -> tuple[bool, int, float]:
        """The smallest goes first."""
        return (not self._is_owed(line), -line[0], self._served[line])

    def _is_owed(self, line: Line) -> bool:
        """Its band has earned its next request, and goes before higher ones."""
        return self._earned.get(line[0], 0.0) >= next(iter(self._waiting[line])).tokens

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
        place.breaker.sent()
        line = ticket.line
        self._served[line] += ticket.tokens / ticket.weight
        self._running[line] = self._running.get(line, 0) + 1
        self._pass_by(ticket)
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

    def _pass_by(self, ticket: Ticket) -> None:
        """Lower bands that wait earn something; its own is paid, and pays in advance if it goes before a higher one."""
        bands = {band for band, _ in self._waiting}
        for band in bands:
            if band < ticket.band:
                self._earned[band] = self._earned.get(band, 0.0) + RESERVED * ticket.tokens
        earned = self._earned.get(ticket.band, 0.0)
        if any(band > ticket.band for band in bands):
            self._earned[ticket.band] = earned - ticket.tokens
        elif earned > 0:
            self._earned[ticket.band] = max(0.0, earned - ticket.tokens)

    def _leave(self, ticket: Ticket) -> None:
        del self._waiting[ticket.line][ticket]
        self._backlog[ticket.line] -= ticket.tokens

    def _tidy(self, line: Line) -> None:
        """Forget what a line no longer needs."""
        if self._waiting.get(line):
            return
        self._waiting.pop(line, None)
        self._backlog.pop(line, None)
        if all(band != line[0] for band, _ in self._waiting):
            self._earned.pop(line[0], None)
        if not self._running.get(line):
            self._running.pop(line, None)
            del self._served[line]
