"""Time to first token and throughput: direct, through a proxy that only copies bytes, and through the gateway.

The proxy shows what one more process in the way costs on a machine whose cores all of them share.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks.gateway.processes import Serving, gateway, module, sage, server
from benchmarks.gateway.streams import Stream, burst

ROUNDS = 4
QUICK = sage("endpoint", "simulate", "--port", "0")
STEADY = module("steady", "50", "256")
"""256 streams of `QUICK` are more chunks a second than two cores can carry."""


@dataclass
class Way:
    """One of the ways to the endpoint, and what was seen on it."""

    name: str
    server: Serving
    streams: list[Stream] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    async def burst(self, concurrency: int, requests: int, tokens: int) -> None:
        before = self.server.cpu_s
        came, seconds = await burst(self.server.url, concurrency, requests, tokens)
        self.cpu_s += self.server.cpu_s - before
        self.streams += came
        self.rates.append(sum(stream.tokens for stream in came) / seconds)

    @property
    def first_s(self) -> float:
        return statistics.median(stream.first_token_s for stream in self.streams)

    def beside(self, direct: Way) -> str:
        added_s = self.first_s - direct.first_s
        rate = statistics.median(self.rates) / statistics.median(direct.rates)
        cpu_ms = self.cpu_s / len(self.streams) * 1e3
        return (
            f"{self.name} {self.first_s * 1e3:.2f} ms ({added_s * 1e3:+.2f} ms, {added_s / direct.first_s:+.1%}; "
            f"throughput {rate:.1%}; {cpu_ms:.2f} ms of processor time a stream)"
        )


async def tax() -> None:
    with server(QUICK) as direct, server(module("splice", direct.url)) as splice, gateway(direct) as through:
        await burst(through.url, 256, 1000, 64)  # until the adaptive limit is found
        await compared(direct, splice, through, streams=1, requests=6, tokens=64, bar="under +3 ms")
        await compared(direct, splice, through, streams=32, requests=192, tokens=64, bar="under +10%")


async def crowd() -> None:
    with server(STEADY) as direct, server(module("splice", direct.url)) as splice, gateway(direct) as through:
        await burst(through.url, 256, 2500, 32)
        await compared(direct, splice, through, streams=256, requests=512, tokens=32, bar="throughput at least 97%")


async def compared(
    direct: Serving, splice: Serving, through: Serving, *, streams: int, requests: int, tokens: int, bar: str
) -> None:
    ways = [Way("direct", direct), Way("a proxy", splice), Way("the gateway", through)]
    for round_ in range(ROUNDS):
        for way in ways if round_ % 2 else reversed(ways):
            await way.burst(streams, requests, tokens)
    others = "; ".join(way.beside(ways[0]) for way in ways[1:])
    print(f"{streams} streams: first token {ways[0].first_s * 1e3:.2f} ms; {others}. Bar: {bar}")
