"""Two endpoints that cache prefixes, and conversations about long documents: with and without prefix affinity."""

from __future__ import annotations

import asyncio
import random
import re
import statistics

import aiohttp
from benchmarks.gateway.clients import session
from benchmarks.gateway.processes import Serving, gateway, sage, server
from benchmarks.gateway.streams import Stream, asking

DOCUMENTS, QUESTIONS, AT_ONCE = 120, 360, 12
WORDS = 3000
VOCABULARY = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
ENDPOINT = sage("endpoint", "simulate", "--port", "0")


async def prefix() -> None:
    plain, affine = await questions(False), await questions(True)
    for name, (came, found) in (("without", plain), ("with", affine)):
        first = [stream.first_token_s for stream in came]
        print(
            f"{name} prefix affinity: {found:.1%} of the prompt tokens found in a cache; first token after "
            f"{statistics.median(first) * 1e3:.0f} ms (mean {statistics.mean(first) * 1e3:.0f} ms)"
        )


async def questions(affinity: bool) -> tuple[list[Stream], float]:
    """Each about one of the documents, in the same random order; and the share of their tokens that was cached."""
    dice = random.Random(0)
    texts = [" ".join(dice.choices(VOCABULARY, k=WORDS)) for _ in range(DOCUMENTS)]
    order = iter([dice.choice(texts) for _ in range(QUESTIONS)])
    streams: list[Stream] = []

    async def client(number: int) -> None:
        for text in order:
            streams.append(await asked.ask(f"{text} Question {number} {len(streams)}?", 32))

    config = f"prefix_affinity = {str(affinity).lower()}\n"
    with server(ENDPOINT) as one, server(ENDPOINT) as other, gateway(one, other, config=config) as through:
        async with session() as opened, asking(through.url) as asked:
            await asyncio.gather(*(client(i) for i in range(AT_ONCE)))
            counts = [await cached(opened, endpoint) for endpoint in (one, other)]
    found, looked_up = (sum(column) for column in zip(*counts, strict=True))
    return streams, found / looked_up


async def cached(opened: aiohttp.ClientSession, endpoint: Serving) -> tuple[float, float]:
    """Prompt tokens that it found in its cache, and all."""
    async with opened.get(endpoint.url.removesuffix("/v1") + "/metrics") as answer:
        text = await answer.text()
    found, looked_up = (
        sum(map(float, re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.MULTILINE)))
        for name in ("hits", "queries")
    )
    return found, looked_up
