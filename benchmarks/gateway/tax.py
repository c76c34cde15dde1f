"""Time to first token and throughput, direct and through the gateway in turns."""

from __future__ import annotations

import statistics

from benchmarks.gateway.clients import Stream, burst
from benchmarks.gateway.processes import Serving, gateway, module, sage, server

TOKENS = 64
ROUNDS = 4
QUICK = sage("endpoint", "simulate", "--port", "0")
STEADY = module("steady", "50", "256")
"""256 streams of `QUICK` are more chunks a second than two cores can carry."""
TAXED = ((QUICK, 1000, ((1, 12), (32, 128))), (STEADY, 2500, ((256, 512),)))
"""The endpoint, requests until the adaptive limit is found, and streams at once with the requests of each round."""
BARS = {1: "under +3 ms", 32: "under +10%", 256: "throughput at least 97%"}


async def tax() -> None:
    for endpoint, warm_up, loads in TAXED:
        with server(endpoint) as direct, gateway(direct) as through:
            await burst(through.url, 256, warm_up, TOKENS)
            for concurrency, requests in loads:
                print(await compared(direct, through, concurrency, requests))


async def compared(direct: Serving, through: Serving, concurrency: int, requests: int) -> str:
    streams: dict[str, list[Stream]] = {direct.url: [], through.url: []}
    rates: dict[str, list[float]] = {direct.url: [], through.url: []}
    cpu_s = -through.cpu_s
    for round_ in range(ROUNDS):
        for url in (direct.url, through.url) if round_ % 2 else (through.url, direct.url):
            came, seconds = await burst(url, concurrency, requests, TOKENS)
            streams[url] += came
            rates[url].append(sum(stream.tokens for stream in came) / seconds)
    cpu_s += through.cpu_s
    alone, taxed = (statistics.median(stream.first_token_s for stream in came) for came in streams.values())
    ratio = statistics.median(rates[through.url]) / statistics.median(rates[direct.url])
    return (
        f"{concurrency} streams: first token after {alone * 1e3:.2f} ms, through the gateway {taxed * 1e3:.2f} "
        f"({(taxed - alone) * 1e3:+.2f} ms, {taxed / alone - 1:+.1%}); throughput {ratio:.1%} of direct; "
        f"{cpu_s / ROUNDS / requests * 1e3:.2f} ms of processor time a stream. Bar: {BARS[concurrency]}"
    )
