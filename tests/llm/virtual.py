"""A small model of an endpoint in virtual time, beside `sage.llm.simulated.clients.VirtualEndpoint`, which is truer and
slower.

`Batching` is continuous batching: one token for each decoding request a step, prompts computed in chunks beside them, a
number of seats, first come first served. How long a step takes is any function of the number of requests that decode.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable

from sage.llm.simulated.clients import Call, Client

CHUNK_TOKENS = 2048


def narrow(chance: random.Random) -> tuple[float, float]:
    return chance.uniform(200, 600), chance.uniform(100, 200)


def heavy_tailed(chance: random.Random) -> tuple[float, float]:
    return min(4000, chance.lognormvariate(6, 0.8)), min(1500, chance.lognormvariate(4.7, 0.9)) + 1


def long_and_short(chance: random.Random) -> tuple[float, float]:
    """Long prompts with short answers between short prompts with long answers."""
    return (3000, 20) if chance.random() < 0.3 else (100, 300)


class Batching:
    """See the module. `step_s(n)` is the length of a step in which `n` requests decode."""

    def __init__(
        self,
        step_s: Callable[[int], float],
        seats: float = math.inf,
        *,
        prompt_token_s: float = 25e-6,
        noise: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.step_s = step_s
        self.seats = seats
        self.now = 0.0
        self.clients: list[Client] = []
        self._prompt_token_s = prompt_token_s
        self._noise = noise
        self._chance = random.Random(seed)
        self._pace, self._pace_until = 1.0, 0.0
        self._steps = self._running = self._decoding = self._started = 0
        self._ends: list[tuple[int, int, Call]] = []
        self._prompts: deque[Call] = deque()
        self._waiting: deque[Call] = deque()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def run(self, until: float) -> None:
        self._fill()
        while self.now < until:
            if not self._running:
                self.now = until
                return
            self._step()
            self._fill()

    def _fill(self) -> None:
        for client in self.clients:
            while client.in_flight < min(client.limiter.limit, client.demand):
                prompt, output = (max(1, int(tokens)) for tokens in client.sizes(self._chance))
                flight = client.limiter.begin(self.now, prompt)
                client.in_flight += 1
                self._waiting.append(Call(client, self.now, prompt, output, flight, prompt))
        while self._waiting and self._running < self.seats:
            self._running += 1
            self._prompts.append(self._waiting.popleft())

    def _step(self) -> None:
        if self.now >= self._pace_until:
            self._pace = math.exp(self._chance.gauss(0, self._noise))
            self._pace_until = self.now + 0.25
        tokens, first = self._read_prompts(CHUNK_TOKENS - self._decoding)
        self.now += (self.step_s(self._decoding) + self._prompt_token_s * tokens) * self._pace
        self._steps += 1
        for client in self.clients:
            if client.streamed and client.decoding:
                client.limiter.progress(client.all_streams, self.now, client.decoding)
        while self._ends and self._ends[0][0] <= self._steps:
            self._end(heapq.heappop(self._ends)[2])
        for call in first:
            self._first_token(call)

    def _read_prompts(self, budget: int) -> tuple[int, list[Call]]:
        tokens, first = 0, []
        while self._prompts and tokens < budget:
            call = self._prompts[0]
            chunk = min(call.prompt_left, budget - tokens)
            tokens += chunk
            call.prompt_left -= chunk
            if not call.prompt_left:
                first.append(self._prompts.popleft())
        return tokens, first

    def _first_token(self, call: Call) -> None:
        client = call.client
        self._decoding += 1
        self._started += 1
        client.decoding += 1
        heapq.heappush(self._ends, (self._steps + max(1, call.output - 1), self._started, call))
        if client.streamed:
            client.limiter.progress(call.flight, self.now, 1)

    def _end(self, call: Call) -> None:
        client = call.client
        self._decoding -= 1
        self._running -= 1
        client.decoding -= 1
        client.in_flight -= 1
        if client.streamed:
            call.flight.output_tokens = call.output  # reported all along, by `all_streams`
        else:
            client.limiter.progress(call.flight, self.now, call.output)
        client.limiter.end(call.flight, self.now)
        client.ended.append((self.now, self.now - call.began, call.output))
        client.limits.append((self.now, client.limiter.limit))


def seats(knee: int, each_s: float = 1 / 60) -> tuple[Callable[[int], float], float]:
    """Linear, then flat: every step takes as long, and `knee` requests fit."""
    return (lambda n: each_s), knee


def steps(fixed_s: float, each_s: float, places: int) -> tuple[Callable[[int], float], float]:
    """A step grows with the batch, until the seats are full."""
    return (lambda n: fixed_s + each_s * n), places


def peaking(fixed_s: float, each_s: float, peak: int) -> tuple[Callable[[int], float], float]:
    """Throughput is largest with `peak` requests and falls beyond (the universal scalability law)."""
    return (lambda n: fixed_s + each_s * n + fixed_s * (n / peak) ** 2), math.inf
