"""Streams as their client sees them."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
import msgspec

MODEL = "Qwen/Qwen2.5-3B-Instruct"


class Stream(NamedTuple):
    """One answer, as its client saw it."""

    first_token_s: float
    whole_s: float
    queued_s: float
    """Waiting in the gateway for room at the endpoint: what the adaptive limit decided."""
    tokens: int
    """Of the prompt and the answer, as the endpoint counts."""


class Refused(Exception):
    """Another status than 200, after `after_s`."""

    def __init__(self, status: int, after_s: float) -> None:
        super().__init__(status)
        self.status = status
        self.after_s = after_s


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as made:
        yield made


async def ask(
    session: aiohttp.ClientSession, url: str, prompt: str, tokens: int, key: str = "", **headers: str
) -> Stream:
    """One streamed chat; raises if it is not a whole answer."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    if key:
        headers["Authorization"] = f"Bearer {key}"
    began, first_s, last = time.perf_counter(), math.nan, b""
    async with session.post(f"{url}/chat/completions", data=msgspec.json.encode(body), headers=headers) as answer:
        if answer.status != 200:
            await answer.read()
            raise Refused(answer.status, time.perf_counter() - began)
        while piece := await answer.content.readany():
            first_s = first_s if last else time.perf_counter() - began
            last = last[-1000:] + piece
    assert last.endswith(b"data: [DONE]\n\n"), "half an answer"
    total = re.search(rb'"total_tokens": ?(\d+)', last)
    assert total, "no usage"
    queued_s = float(answer.headers.get("X-SAGE-Queue-Ms", 0)) / 1e3
    return Stream(first_s, time.perf_counter() - began, queued_s, int(total[1]))


async def burst(url: str, concurrency: int, requests: int, tokens: int) -> tuple[list[Stream], float]:
    """So many streams, `concurrency` of them at once; and how long they took."""
    numbers = iter(range(requests))
    streams: list[Stream] = []

    async def client() -> None:
        for number in numbers:
            streams.append(await ask(opened, url, f"Question {number}: what is it?", tokens))

    async with session() as opened:
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return streams, time.perf_counter() - began


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
