"""Whose turn it is. Pure: no I/O, no clock.

Among tenants the one goes first that has been served the fewest tokens for its weight (the virtual token counter of
Sheng et al., OSDI '24: one that comes, or comes back, starts level with the least served one, so that idling earns
nothing); among the jobs of a tenant likewise; within a job the oldest request. A higher band goes before a lower one,
but a band that waits earns `RESERVED` of the tokens that pass it by, and goes first once it has earned a request: it is
never starved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from sage.errors import EndpointBusy

RESERVED = 0.05
MOST_WAITING = 100_000

W = TypeVar("W", bound=Hashable)


class Group(NamedTuple):
    """Those of one tenant in one band."""

    band: int
    tenant: str


class Line(NamedTuple):
    """A queue of its own."""

    band: int
    tenant: str
    job: str

    @property
    def group(self) -> Group:
        return Group(self.band, self.tenant)


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that waits. `tokens` is what it may cost: its prompt and the longest answer, as well as one knows."""

    tokens: float
    prompt_tokens: float = 0.0
    job: str = ""
    tenant: str = ""
    """Whose jobs take turns with one another."""
    prefix: str = ""
    avoid: frozenset[str] = frozenset()
    """Endpoints that failed it already."""
    weight: float = 1.0
    """Of its tenant and its job: twice the weight is twice the tokens."""
    band: int = 0
    """The higher one goes first."""
    streamed: bool = True
    """Its answer comes as it is made. Another one comes at its end, which is no sign that it waits for its turn."""

    @property
    def line(self) -> Line:
        return Line(self.band, self.tenant, self.job)


class _Served(Generic[W]):
    """Tokens by weight, of those who take turns with one another and have something to do."""

    def __init__(self) -> None:
        self._tokens: dict[W, float] = {}

    def __getitem__(self, who: W) -> float:
        return self._tokens[who]

    def __len__(self) -> int:
        return len(self._tokens)

    def join(self, who: W) -> None:
        """Level with the least served, if it is not among them."""
        if who not in self._tokens:
            self._tokens[who] = min(self._tokens.values(), default=0.0)

    def add(self, who: W, tokens: float) -> None:
        """Less than 0 gives back."""
        self._tokens[who] += tokens

    def leave(self, who: W) -> None:
        del self._tokens[who]


class Turns:
    """Requests that wait, and what those were served that wait or run."""

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self.waiting = 0
        """How many."""
        self._waiting: dict[Line, OrderedDict[Ticket, None]] = {}
        self._backlog: dict[Line, float] = {}
        """Tokens that wait."""
        self._running: dict[Line, int] = {}
        self._lines: dict[Group, _Served[Line]] = {}
        self._groups: dict[int, _Served[Group]] = {}
        self._earned: dict[int, float] = {}
        """Of each band that waits, in tokens."""

    def wait(self, ticket: Ticket, *, first: bool = False) -> None:
        """Behind its job's others, or before them. Raises `EndpointBusy` E723 if too many wait already."""
        if self.waiting >= self._most_waiting and not first:
            raise EndpointBusy(
                "E723", "too many requests wait for an endpoint", expected=f"at most {self._most_waiting}"
            )
        line = ticket.line
        self._join(line)
        queue = self._waiting.setdefault(line, OrderedDict())
        queue[ticket] = None
        self.waiting += 1
        self._backlog[line] = self._backlog.get(line, 0.0) + ticket.tokens
        if first:
            queue.move_to_end(ticket, last=False)

    def withdraw(self, ticket: Ticket) -> None:
        self._leave(ticket)
        self._tidy(ticket.line)

    def sent(self, ticket: Ticket) -> None:
        """It waits no longer. What it may cost is what it was served, until it has ended."""
        line = ticket.line
        self._leave(ticket)
        self._serve(ticket, ticket.tokens)
        self._running[line] = self._running.get(line, 0) + 1
        self._pass_by(ticket)
        self._tidy(line)

    def ended(self, ticket: Ticket, used_tokens: float) -> None:
        """One that was sent."""
        self._serve(ticket, used_tokens - ticket.tokens)
        self._running[ticket.line] -= 1
        self._tidy(ticket.line)

    def in_order(self) -> list[Line]:
        """The lines in which somebody waits; whose turn it is first."""
        return sorted(self._waiting, key=self._turn)

    def of(self, line: Line) -> Iterator[Ticket]:
        """Those that wait in it, the oldest first."""
        return iter(self._waiting[line])

    def is_owed(self, line: Line) -> bool:
        """Its band has earned its next request, and goes before higher ones."""
        return self._earned.get(line.band, 0.0) >= next(self.of(line)).tokens

    def bands(self) -> set[int]:
        """Of which something waits or runs."""
        return {line.band for line in (*self._waiting, *self._running)}

    def lower_wait(self, band: int) -> bool:
        """Somebody waits in a lower one."""
        return any(line.band < band for line in self._waiting)

    def ahead(self, ticket: Ticket) -> float:
        """Tokens that would be sent before it: of higher bands all, of its own by weight, of its tenant likewise."""
        backlog = self._backlog
        higher = sum(tokens for line, tokens in backlog.items() if line.band > ticket.band)
        own = backlog.get(ticket.line, 0.0)
        tenants: dict[str, list[Line]] = {}
        for line in backlog:
            if line.band == ticket.band:
                tenants.setdefault(line.tenant, []).append(line)
        siblings = [line for line in tenants.pop(ticket.tenant, ()) if line.job != ticket.job]
        own += sum(self._beside(backlog[line], line, own, ticket) for line in siblings)
        others = (
            self._beside(sum(backlog[line] for line in lines), lines[0], own, ticket) for lines in tenants.values()
        )
        return higher + own + sum(others)

    def _beside(self, tokens: float, line: Line, own: float, ticket: Ticket) -> float:
        """Of `tokens`, those that are served while `own` and the ticket's are, by the weights of `line` and ticket."""
        return min(tokens, (own + ticket.tokens) * next(self.of(line)).weight / ticket.weight)

    def _turn(self, line: Line) -> tuple[bool, int, float, float]:
        """The smallest goes first."""
        return (not self.is_owed(line), -line.band, self._groups[line.band][line.group], self._lines[line.group][line])

    def _join(self, line: Line) -> None:
        self._groups.setdefault(line.band, _Served()).join(line.group)
        self._lines.setdefault(line.group, _Served()).join(line)

    def _serve(self, ticket: Ticket, tokens: float) -> None:
        line = ticket.line
        self._lines[line.group].add(line, tokens / ticket.weight)
        self._groups[line.band].add(line.group, tokens / ticket.weight)

    def _pass_by(self, ticket: Ticket) -> None:
        """Lower bands that wait earn something; its own is paid, and pays in advance if it goes before a higher one."""
        bands = {line.band for line, queue in self._waiting.items() if queue or line == ticket.line}
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
        self.waiting -= 1

    def _tidy(self, line: Line) -> None:
        """Forget what a line no longer needs."""
        if self._waiting.get(line):
            return
        self._waiting.pop(line, None)
        self._backlog.pop(line, None)
        if all(other.band != line.band for other in self._waiting):
            self._earned.pop(line.band, None)
        if not self._running.get(line):
            self._running.pop(line, None)
            self._lines[line.group].leave(line)
            if not self._lines[line.group]:
                del self._lines[line.group]
                self._groups[line.band].leave(line.group)
                if not self._groups[line.band]:
                    del self._groups[line.band]
