"""The gateway: what it costs, and whom it serves. Direct and through it in turns, in one run; no GPU.

python benchmarks/gateway.py tax         time to first token and throughput at 1, 32 and 256 streams
python benchmarks/gateway.py fairness    two tenants, one of which sends ten times as much
"""

from __future__ import annotations

import asyncio
import math
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from sage.gateway import new_key
from sage.llm.simulated import PROFILES, Profile, SimulatedEndpoint

QUICK = PROFILES["a100-qwen2.5-3b"]
STEADY = Profile(
    "steady", QUICK.model, step_s=50e-3, weights_s=0.0, token_s=0.0, context_s=0.0, attention_s=0.0, blocks=65_536
)
"""Steps of 50 ms whatever is in them: 256 streams of `QUICK` are more chunks a second than two cores can carry."""
TOKENS = 64
ROUNDS = 2
TAXED = ((QUICK, 1, 12), (QUICK, 32, 128), (STEADY, 256, 512))
"""Endpoint, streams at once, requests of each round."""
WARM_UP = {QUICK: 1000, STEADY: 2500}
"""Requests until the adaptive limit is found."""
FAIR_S = 20.0
FAIR_LENGTHS = {"light": 32, "heavy": 128}
FAIR_STREAMS = {"light": 24, "heavy": 240}


class Stream(NamedTuple):
    """One answer, as its client saw it."""

    first_token_s: float
    queued_s: float
    """Of these, waiting in the gateway for room at the endpoint: what the adaptive limit decided."""
    tokens: int
    """Of the prompt and the answer, as the endpoint counts."""


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """A command of sage that serves; its base URL."""
    program = [__file__] if arguments[0] == "steady" else ["-m", "sage"]
    command = [sys.executable, *program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, f"{command} did not start"
            yield url
        finally:
            process.terminate()


async def ask(session: aiohttp.ClientSession, url: str, number: int, tokens: int, key: str = "") -> Stream:
    """One streamed chat; raises if it is not a whole answer."""
    message = {"role": "user", "content": f"Question {number}: what is it?"}
    body = {
        "model": QUICK.model,
        "messages": [message],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    began, first_s, last = time.perf_counter(), math.nan, b""
    async with session.post(f"{url}/chat/completions", data=msgspec.json.encode(body), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        while piece := await answer.content.readany():
            first_s = first_s if last else time.perf_counter() - began
            last = last[-1000:] + piece
    assert last.endswith(b"data: [DONE]\n\n"), "half an answer"
    queued_s = float(answer.headers.get("X-SAGE-Queue-Ms", 0)) / 1e3
    total = re.search(rb'"total_tokens": ?(\d+)', last)
    assert total, "no usage"
    return Stream(first_s, queued_s, int(total[1]))


async def burst(url: str, concurrency: int, requests: int) -> tuple[list[Stream], float]:
    """So many streams, `concurrency` of them at once; and how long they took."""
    numbers = iter(range(requests))
    streams: list[Stream] = []

    async def client() -> None:
        for number in numbers:
            streams.append(await ask(session, url, number, TOKENS))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return streams, time.perf_counter() - began


async def tax() -> None:
    for profile in (QUICK, STEADY):
        endpoint = (
            ("steady",) if profile is STEADY else ("endpoint", "simulate", "--profile", profile.name, "--port", "0")
        )
        with (
            server(*endpoint) as direct,
            usage() as config,
            server("gateway", "--endpoint", direct, "--config", str(config), "--port", "0") as gateway,
        ):
            await burst(gateway, 256, WARM_UP[profile])
            for taxed, concurrency, requests in TAXED:
                if taxed is profile:
                    print(await compared(direct, gateway, concurrency, requests))


async def compared(direct: str, gateway: str, concurrency: int, requests: int) -> str:
    """Both in turns."""
    streams: dict[str, list[Stream]] = {direct: [], gateway: []}
    rates: dict[str, list[float]] = {direct: [], gateway: []}
    for round_ in range(ROUNDS):
        for url in (direct, gateway) if round_ % 2 else (gateway, direct):
            came, seconds = await burst(url, concurrency, requests)
            streams[url] += came
            rates[url].append(sum(stream.tokens for stream in came) / seconds)
    alone, through = (statistics.median(stream.first_token_s for stream in streams[url]) for url in (direct, gateway))
    queued = statistics.median(stream.queued_s for stream in streams[gateway])
    ratio = statistics.median(rates[gateway]) / statistics.median(rates[direct])
    return (
        f"{concurrency} streams: first token after {alone * 1e3:.2f} ms, through the gateway {through * 1e3:.2f} "
        f"({through / alone - 1:+.1%}; {queued * 1e3:.2f} ms of it waiting for room); throughput {ratio:.1%} of direct"
    )


def serve_steadily() -> None:
    with SimulatedEndpoint(STEADY) as endpoint:
        print(f"{endpoint.url}/v1", flush=True)
        signal.pause()


@contextmanager
def usage(text: str = "") -> Iterator[Path]:
    """A configuration in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "gateway.toml")
        config.write_text(f'usage_file = "usage.sqlite"\n{text}')
        yield config


async def fairness() -> None:
    """Both always have work: the share of tokens that each gets, by what came while both ran."""
    keys, tables = {}, ""
    for name in FAIR_STREAMS:
        keys[name], entry = new_key(name)
        tables += f'[[key]]\nname = "{name}"\nsha256 = "{entry.sha256}"\n'
    served: Counter[str] = Counter()

    async def client(name: str, number: int) -> None:
        while time.perf_counter() < until:
            stream = await ask(session, gateway, number, FAIR_LENGTHS[name], keys[name])
            if settled < time.perf_counter() < until:
                served[name] += stream.tokens

    with (
        server("endpoint", "simulate", "--profile", QUICK.name, "--max-num-seqs", "16", "--port", "0") as direct,
        usage(tables) as config,
        server("gateway", "--endpoint", direct, "--config", str(config), "--port", "0") as gateway,
    ):
        settled = time.perf_counter() + FAIR_S / 4
        until = settled + FAIR_S
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [client(name, i) for name, count in FAIR_STREAMS.items() for i in range(count)]
            await asyncio.gather(*clients)
    for name, tokens in served.items():
        print(
            f"{name}: {FAIR_STREAMS[name]} streams of {FAIR_LENGTHS[name]} tokens, "
            f"{tokens / served.total():.1%} of the tokens"
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tax"]:
            asyncio.run(tax())
        case ["fairness"]:
            asyncio.run(fairness())
        case ["steady"]:
            serve_steadily()
        case _:
            sys.exit(__doc__)
