"""Two endpoints that cache prefixes, and conversations about long documents: with and without prefix affinity."""

from __future__ import annotations

import asyncio
import random
import statistics

from benchmarks.gateway.clients import Stream, ask, quantile, session
from benchmarks.gateway.processes import gateway, sage, server

DOCUMENTS, QUESTIONS, AT_ONCE = 120, 360, 12
WORDS = 6000
ENDPOINT = sage("endpoint", "simulate", "--port", "0")


async def prefix() -> None:
    plain, affine = await questions(False), await questions(True)
    for name, came in (("without", plain), ("with", affine)):
        first = [stream.first_token_s for stream in came]
        print(
            f"{name} prefix affinity: first token after {statistics.median(first) * 1e3:.0f} ms "
            f"(p99 {quantile(first, 0.99) * 1e3:.0f} ms)"
        )
    better = statistics.mean(s.first_token_s for s in plain) / statistics.mean(s.first_token_s for s in affine)
    print(f"the first token comes {better:.2f} times as soon, on average")


async def questions(affinity: bool) -> list[Stream]:
    """Each about one of the documents, in the same random order."""
    dice = random.Random(0)
    texts = [
        " ".join(dice.choices(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"], k=WORDS))
        for _ in range(DOCUMENTS)
    ]
    order = iter([dice.choice(texts) for _ in range(QUESTIONS)])
    streams: list[Stream] = []

    async def client(number: int) -> None:
        for text in order:
            streams.append(await ask(opened, through.url, f"{text} Question {number} {len(streams)}?", 32))

    config = f"prefix_affinity = {str(affinity).lower()}\n"
    with server(ENDPOINT) as one, server(ENDPOINT) as other, gateway(one, other, config=config) as through:
        async with session() as opened:
            await asyncio.gather(*(client(i) for i in range(AT_ONCE)))
    return streams
