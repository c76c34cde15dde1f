"""Fairness between tenants, and priority: each tenant's share, and how long it waits beside the others.

The runs of a comparison go on at the same time, each with an endpoint and a gateway of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

from benchmarks.gateway.clients import quantile
from benchmarks.gateway.processes import gateway, key, module, server
from benchmarks.gateway.streams import asking

SEATS = 16
STEP_MS = "10"
SETTLE_S, MEASURED_S = 20.0, 40.0


@dataclass(frozen=True)
class Load:
    """So many clients of one tenant, each of which asks again as soon as it is answered."""

    tenant: str
    streams: int
    tokens: int
    priority: int = 0


@dataclass(frozen=True)
class Got:
    """What one tenant got while it was measured."""

    tokens: int
    p99_s: float


async def run(seats: int, *loads: Load) -> dict[str, Got]:
    """Against one endpoint of `seats`; by tenant."""
    made = {load.tenant: key(load.tenant, priority=load.priority) for load in loads}
    served: Counter[str] = Counter()
    took: defaultdict[str, list[float]] = defaultdict(list)

    async def client(load: Load, number: int) -> None:
        asked = 0
        while time.perf_counter() < until:
            asked += 1
            prompt = f"{load.tenant} {number} {asked}"
            stream = await opened.ask(prompt, load.tokens, made[load.tenant][0])
            if settled < time.perf_counter() < until:
                served[load.tenant] += stream.tokens
                took[load.tenant].append(stream.whole_s)

    config = "max_wait_s = 600\n" + "".join(table for _, table in made.values())
    with server(module("steady", STEP_MS, str(seats))) as direct, gateway(direct, config=config) as through:
        async with asking(through.url) as opened:
            settled = time.perf_counter() + SETTLE_S
            until = settled + MEASURED_S
            await asyncio.gather(*(client(load, i) for load in loads for i in range(load.streams)))
    return {name: Got(served[name], quantile(times, 0.99)) for name, times in took.items()}


async def fairness() -> None:
    light, heavy = Load("light", 24, 32), Load("heavy", 240, 128)
    alone, both = await asyncio.gather(run(SEATS // 2, light), run(SEATS, light, heavy))
    share = both["light"].tokens / sum(got.tokens for got in both.values())
    print(
        f"light tenant beside one with 10 times the streams of 4 times the tokens: {share:.1%} of the tokens "
        f"(bar: 47% to 53%); p99 {both['light'].p99_s:.2f} s, alone at half capacity {alone['light'].p99_s:.2f} s "
        f"({both['light'].p99_s / alone['light'].p99_s:.2f}; bar: 1.5)"
    )


async def priority() -> None:
    interactive, batch = Load("interactive", 4, 64, priority=1), Load("batch", 120, 64)
    alone, both, greedy = await asyncio.gather(
        run(SEATS, interactive),
        run(SEATS, interactive, batch),
        run(SEATS, Load("interactive", 120, 64, priority=1), batch),
    )
    p99_s, alone_s = both["interactive"].p99_s, alone["interactive"].p99_s
    print(
        f"interactive tenant: p99 {p99_s:.2f} s beside a batch tenant, alone {alone_s:.2f} s "
        f"({p99_s / alone_s:.2f}; bar: 1.3); the batch tenant got {both['batch'].tokens / MEASURED_S:.0f} tokens/s, "
        f"both {sum(got.tokens for got in both.values()) / MEASURED_S:.0f}"
    )
    share = greedy["batch"].tokens / sum(got.tokens for got in greedy.values())
    print(f"under endless high priority the batch tenant gets {share:.1%} of the tokens. Bar: more than nothing")
