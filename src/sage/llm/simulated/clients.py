"""Clients of an endpoint in virtual time that always have more to ask: hundreds of seconds take a fraction of one.

The engine and the limits are the real ones; nothing goes over a network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from sage.llm.simulated.engine import Engine
from sage.llm.simulated.profile import Profile
from sage.llm.simulated.sequence import Request as EngineRequest
from sage.scheduling.limiter import AdaptiveLimit, Flight

Sizes = Callable[[random.Random], tuple[float, float]]
"""Prompt and output tokens of the next request."""


class Limit(Protocol):
    """What a `Client` asks of its limiter."""

    @property
    def limit(self) -> int: ...

    def begin(self, now: float, prompt_tokens: float) -> Flight: ...

    def progress(self, flight: Flight, now: float, output_tokens: float) -> None: ...

    def end(self, flight: Flight, now: float, *, refused: bool = False) -> None: ...


class Fixed:
    """A static setting."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def begin(self, now: float, prompt_tokens: float) -> Flight:
        return Flight(prompt_tokens)

    def progress(self, flight: Flight, now: float, output_tokens: float) -> None:
        pass

    def end(self, flight: Flight, now: float, *, refused: bool = False) -> None:
        pass


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way."""

    client: Client
    began: float
    prompt: int
    output: int
    flight: Flight
    prompt_left: int = 0


@dataclass
class Client:
    """Always has more to ask: keeps as many requests in flight as its limiter allows, but never more than `demand`."""

    limiter: Limit
    sizes: Sizes
    demand: float = math.inf
    streamed: bool = True
    in_flight: int = 0
    decoding: int = 0
    ended: list[tuple[float, float, int]] = field(default_factory=list)
    """When, how long it took, output tokens."""
    limits: list[tuple[float, int]] = field(default_factory=list)
    all_streams: Flight = field(default_factory=lambda: Flight(0))

    def __post_init__(self) -> None:
        self.all_streams.answered = True

    def throughput(self, since: float, until: float) -> float:
        """Output tokens a second of what ended in that time."""
        return sum(tokens for at, _, tokens in self.ended if since <= at < until) / (until - since)

    def p99(self, since: float, until: float) -> float:
        """Of the latencies, in seconds; infinity if nothing ended in that time."""
        latencies = sorted(latency for at, latency, _ in self.ended if since <= at < until)
        return latencies[int(0.99 * (len(latencies) - 1))] if latencies else math.inf

    def settled_at(self, goal: float, since: float = 0.0, within: float = 0.25) -> float:
        """How long after `since` the limit was first within `within` of `goal`; infinity if never."""
        near = (at - since for at, limit in self.limits if at > since and abs(limit / goal - 1) <= within)
        return next(near, math.inf)


class VirtualEndpoint:
    """The simulated endpoint's engine, and its `clients`, which may come and go between two `run`s."""

    def __init__(self, profile: Profile, seed: int = 0) -> None:
        self.engine = Engine(profile, seed)
        self.now = 0.0
        self.clients: list[Client] = []
        self._chance = random.Random(seed)
        self._calls: dict[Hashable, Call] = {}
        self._sent = 0

    @property
    def running(self) -> int:
        return self.engine.snapshot().running

    @property
    def waiting(self) -> int:
        return self.engine.snapshot().waiting

    def run(self, until: float) -> None:
        self._fill()
        while (at := self.engine.next_event()) is not None and at <= until:
            self.now = at
            step = self.engine.advance(at)
            assert step is not None
            for sequence in step.tokens:
                call = self._calls[sequence.request.id]
                call.client.limiter.progress(call.flight, at, 1)
            for sequence in step.finished:
                self._end(self._calls.pop(sequence.request.id))
            self._fill()
        self.now = until

    def _fill(self) -> None:
        for client in self.clients:
            while client.in_flight < min(client.limiter.limit, client.demand):
                prompt, output = (max(1, int(tokens)) for tokens in client.sizes(self._chance))
                flight = client.limiter.begin(self.now, prompt)
                client.in_flight += 1
                self._sent += 1
                self._calls[self._sent] = Call(client, self.now, prompt, output, flight)
                self.engine.submit(EngineRequest(self._sent, prompt, output), self.now)

    def _end(self, call: Call) -> None:
        client = call.client
        client.in_flight -= 1
        client.limiter.end(call.flight, self.now)
        client.ended.append((self.now, self.now - call.began, call.output))
        client.limits.append((self.now, client.limiter.limit))


def adaptive(sizes: Sizes, start: int = 8, *, streamed: bool = True) -> Client:
    """A client with a limit of its own."""
    return Client(AdaptiveLimit(start, streamed=streamed), sizes, streamed=streamed)
