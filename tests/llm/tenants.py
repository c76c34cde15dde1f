"""Tenants before one endpoint in virtual time: the balancer and the engine are the real ones, the clock is not."""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sage.llm.balancer import Balancer, Grant, Outcome
from sage.llm.simulated import Engine, Profile, Request
from sage.llm.turns import Ticket

PROMPT_TOKENS = 20
HEARD_S = 0.002
"""Until a client that was answered asks again."""
REPORT_S = 1.0


def steady(step_s: float, seats: int) -> Profile:
    """Every step takes as long, whatever is in it."""
    return Profile(
        "steady", "m", step_s=step_s, weights_s=0.0, token_s=0.0, context_s=0.0, attention_s=0.0,
        blocks=65_536, max_seqs=seats,
    )  # fmt: skip


@dataclass
class Tenant:
    """So many clients, each of which asks again as soon as it is answered."""

    name: str
    clients: int
    tokens: int
    band: int = 0
    ended: list[tuple[float, float, int]] = field(default_factory=list)
    """When, how long it took, tokens."""

    def p99(self, since: float) -> float:
        latencies = sorted(latency for at, latency, _ in self.ended if at >= since)
        return latencies[int(0.99 * (len(latencies) - 1))]

    def tokens_per_s(self, since: float, until: float) -> float:
        return sum(tokens for at, _, tokens in self.ended if since <= at < until) / (until - since)


@dataclass(eq=False)
class Call:
    """One request of a tenant's."""

    tenant: Tenant
    began: float
    output_tokens: int


@dataclass(frozen=True)
class Trouble:
    """What befalls this share of the requests that are sent, so long after it."""

    outcome: Outcome
    share: float = 1.0
    after_s: float = 0.01


class World:
    """Make it, `run` it until a time, change its `engine` or its `trouble`, and run it on."""

    def __init__(self, profile: Profile, *tenants: Tenant, tells: bool = True, jitter: float = 0.0) -> None:
        self.engine = Engine(profile, 0)
        self.desk = Balancer(["x"], start=8, most=1024)
        self.now = 0.0
        self.trouble: Trouble | None = None
        self._tells = tells
        self._jitter = jitter
        self._chance = random.Random(0)
        self._waiting: dict[Ticket, Call] = {}
        self._running: dict[int, tuple[Call, Grant]] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.sent = 0
        self._numbered = 0
        for tenant in tenants:
            for _ in range(tenant.clients):
                self._at(self._chance.random() * 0.01, lambda tenant=tenant: self._ask(tenant))
        self._at(REPORT_S, self._report)

    def run(self, until: float) -> None:
        while (at := self._next()) <= until:
            self.now = at
            if (due := self.engine.next_event()) is not None and due <= at:
                self._step()
            while self._agenda and self._agenda[0][0] <= at:
                heapq.heappop(self._agenda)[2]()
            for grant in self.desk.grants(at):
                self._send(grant)

    def _next(self) -> float:
        due = self.engine.next_event()
        return min(self._agenda[0][0], self.desk.wakes_at(self.now), math.inf if due is None else due)

    def _at(self, at: float, what: Callable[[], None]) -> None:
        self._numbered += 1
        heapq.heappush(self._agenda, (at, self._numbered, what))

    def _ask(self, tenant: Tenant) -> None:
        tokens = round(tenant.tokens * self._chance.uniform(1 - self._jitter, 1 + self._jitter))
        ticket = Ticket(PROMPT_TOKENS + tokens, PROMPT_TOKENS, tenant.name, band=tenant.band)
        self._waiting[ticket] = Call(tenant, self.now, tokens)
        self.desk.wait(ticket)

    def _send(self, grant: Grant) -> None:
        call = self._waiting.pop(grant.ticket)
        self.sent += 1
        trouble = self.trouble
        if trouble is not None and self._chance.random() < trouble.share:
            self._at(self.now + trouble.after_s, lambda: self._fail(call, grant, trouble.outcome))
            return
        self._numbered += 1
        self._running[self._numbered] = (call, grant)
        self.engine.submit(Request(self._numbered, PROMPT_TOKENS, call.output_tokens), self.now)

    def _fail(self, call: Call, grant: Grant, outcome: Outcome) -> None:
        self.desk.end(grant, self.now, outcome)
        self._ask(call.tenant)

    def _step(self) -> None:
        step = self.engine.advance(self.now)
        assert step is not None
        for sequence in step.tokens:
            self.desk.progress(self._running[_number(sequence.request)][1], self.now, 1)
        for sequence in step.finished:
            call, grant = self._running.pop(_number(sequence.request))
            self.desk.end(grant, self.now, Outcome.DONE)
            call.tenant.ended.append((self.now, self.now - call.began, call.output_tokens))
            self._at(self.now + HEARD_S, lambda call=call: self._ask(call.tenant))

    def _report(self) -> None:
        if self._tells:
            figures = self.engine.snapshot()
            self.desk.report_load("x", self.now, figures.running, figures.waiting)
        self._at(self.now + REPORT_S, self._report)


def _number(request: Request) -> int:
    assert isinstance(request.id, int)
    return request.id
