"""The adaptive limit over real HTTP: ``python benchmarks/llm_limit_http.py``, about 2 minutes.

A pool asks the simulated endpoint (a process of its own, profile ``peaked``, which never answers 429) over loopback, in
real time, with more callers than it lets in. Each row is one run in a process of its own, and `AT_ONCE` go on at the
same time: with its endpoint, each takes a quarter of a core. Tokens are counted when they come. The best static setting
for a capacity is found by a sweep in the same run of this program. Bars: 97% of its throughput, p99 of the latency
(from when a request is sent) within 1.2 times its p99, from a start of 1 and of 256; the same from 30 s after the
capacity halved or doubled; and from 5 s after a burst in which every request got a 500 for 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import aiohttp

from sage.errors import EndpointError
from sage.llm import ChatClient, EndpointPool

SWEEPS = {1.0: (16, 18, 21), 0.5: (8, 10), 2.0: (36, 42)}
AT_ONCE = 4
WARM_S, ADAPT_S, CHANGED_S, BURST_S, AFTER_BURST_S = 4.0, 20.0, 30.0, 2.0, 5.0
CALLERS = 128
PROMPT = [{"role": "user", "content": "word " * 200}]
SHORTEST, LONGEST = 60, 140
TOKEN_BYTES = 4
"""Of the simulated endpoint's words."""
Ask = Callable[[int, Callable[[bool], None]], AbstractAsyncContextManager[AsyncIterator[str]]]
"""With the length of the answer, and what is to be told when it is sent."""


@dataclass(frozen=True)
class Server:
    """A simulated endpoint in a process of its own."""

    url: str
    token: str

    async def set(self, what: str, document: dict[str, object]) -> None:
        """POST to ``/admin/...``."""
        headers = {"Authorization": f"Bearer {self.token}"}
        base = self.url.removesuffix("/v1")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{base}/admin/{what}", json=document, headers=headers) as answer,
        ):
            answer.raise_for_status()


@contextmanager
def serving(profile: str) -> Iterator[Server]:
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "sage", "endpoint", "simulate", "--profile", profile, "--port", "0"]
    process = subprocess.Popen([*command, "--admin-token", token], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        found = re.search(rb"http://\S+", process.stdout.readline())
        assert found is not None, "the endpoint did not start"
        yield Server(found.group().decode(), token)
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Figures:
    """Of one run: tokens a second, p99 of the latency of answers, the client's processor time as a part of a core, and
    the limit at its end."""

    rate: float
    p99_s: float
    busy: float
    limit: int = 0


class Load:
    """Callers that always ask again; latencies count from when a request is sent."""

    def __init__(self, ask: Ask, callers: int) -> None:
        self._ask = ask
        self._chance = random.Random(0)
        self._tokens = 0.0
        self._ended: list[tuple[float, float]] = []
        self._tasks = [asyncio.create_task(self._call_on()) for _ in range(callers)]

    async def _call_on(self) -> None:
        sent = 0.0

        def on_turn(goes: bool) -> None:
            nonlocal sent
            sent = time.perf_counter()

        while True:
            on_turn(True)
            with suppress(EndpointError):
                async with self._ask(self._chance.randint(SHORTEST, LONGEST), on_turn) as answer:
                    async for text in answer:
                        self._tokens += len(text) / TOKEN_BYTES
                now = time.perf_counter()
                self._ended.append((now, now - sent))

    async def measure(self, seconds: float) -> Figures:
        since, before, cpu_s = time.perf_counter(), self._tokens, time.process_time()
        await asyncio.sleep(seconds)
        tokens, took_s = self._tokens - before, time.perf_counter() - since
        busy = (time.process_time() - cpu_s) / took_s
        latencies = sorted(latency for at, latency in self._ended if at >= since)
        p99_s = latencies[int(0.99 * (len(latencies) - 1))] if latencies else math.inf
        return Figures(tokens / took_s, p99_s, busy)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def static(profile: str, setting: int, capacity: float, seconds: float) -> Figures:
    with serving(profile) as server:
        await server.set("capacity", {"factor": capacity})
        async with ChatClient(server.url) as client:
            load = Load(lambda n, _: client.stream(PROMPT, max_tokens=n, ignore_eos=True), setting)
            await asyncio.sleep(WARM_S)
            figures = await load.measure(seconds)
            await load.stop()
    return figures


async def adaptive(profile: str, start: int, then: Callable[[Server], Awaitable[None]], seconds: float) -> Figures:
    """Adapts, `then` something happens, and it is measured."""
    with serving(profile) as server:
        async with EndpointPool([server.url], start=start) as pool:
            load = Load(lambda n, on_turn: pool.stream(PROMPT, on_turn=on_turn, max_tokens=n, ignore_eos=True), CALLERS)
            await asyncio.sleep(ADAPT_S)
            await then(server)
            figures = await load.measure(seconds)
            figures = replace(figures, limit=pool.snapshot()[0].limit.limit)
            await load.stop()
    return figures


def becomes(capacity: float) -> Callable[[Server], Awaitable[None]]:
    async def change(server: Server) -> None:
        if capacity != 1.0:
            await server.set("capacity", {"factor": capacity})
            await asyncio.sleep(CHANGED_S)

    return change


async def burst(server: Server) -> None:
    await server.set("faults", {"faults": ["500"]})
    await asyncio.sleep(BURST_S)
    await server.set("faults", {"faults": []})
    await asyncio.sleep(AFTER_BURST_S)


ROWS = {
    "start-1": (1, becomes(1.0), 1.0),
    "start-256": (256, becomes(1.0), 1.0),
    "halves": (8, becomes(0.5), 0.5),
    "doubles": (8, becomes(2.0), 2.0),
    "burst": (8, burst, 1.0),
}
"""Where the limit begins, what happens, and the capacity in the end."""


class Row(NamedTuple):
    """One run: of a row of `ROWS`, or of a static setting."""

    profile: str
    seconds: float
    name: str = ""
    setting: int = 0
    capacity: float = 1.0


def measured(row: Row) -> Figures:
    """In a process of its own, so that the clients of one do not wait for those of another."""
    if not row.name:
        return asyncio.run(static(row.profile, row.setting, row.capacity, row.seconds))
    start, then, _ = ROWS[row.name]
    return asyncio.run(adaptive(row.profile, start, then, row.seconds))


def run(profile: str, seconds: float, names: Sequence[str]) -> bool:
    """Print the table; True if every bar is met."""
    print(f"HTTP on loopback, simulated endpoint {profile!r}, {seconds:g} s a row; answers of 60 to 140 tokens\n")
    capacities = {ROWS[name][2] for name in names}
    pairs = [(capacity, setting) for capacity, settings in SWEEPS.items() for setting in settings]
    pairs = [pair for pair in pairs if pair[0] in capacities]
    rows = [Row(profile, seconds, name) for name in names]
    rows += [Row(profile, seconds, setting=setting, capacity=capacity) for capacity, setting in pairs]
    with ProcessPoolExecutor(AT_ONCE) as processes:
        figures = list(processes.map(measured, rows))
    swept = dict(zip(pairs, figures[len(names) :], strict=True))
    for (capacity, setting), found in swept.items():
        print(
            f"capacity {capacity:<4} static {setting:4}  {found.rate:6.0f} tokens/s  p99 {found.p99_s:6.2f} s"
            f"  client {found.busy:4.0%} of a core"
        )
    print("\nadaptive       tokens/s  of best   p99 s  of best  limit  client  bar")
    met = True
    for name, found in zip(names, figures, strict=False):
        best = max((swept[pair] for pair in pairs if pair[0] == ROWS[name][2]), key=lambda figures: figures.rate)
        ratio, slower = found.rate / best.rate, found.p99_s / best.p99_s
        good = ratio >= 0.97 and slower <= 1.2
        met &= good
        print(
            f"{name:13} {found.rate:9.0f} {ratio:8.3f} {found.p99_s:7.2f} {slower:8.2f} {found.limit:6}"
            f" {found.busy:7.0%}  {'met' if good else 'NOT'}"
        )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description="The adaptive limit over real HTTP.")
    parser.add_argument("--profile", default="peaked")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured for each row")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return 0 if run(arguments.profile, arguments.seconds, arguments.rows or list(ROWS)) else 1


if __name__ == "__main__":
    sys.exit(main())
