"""Ten times the requests that an endpoint can serve, past 5,000 connections that do nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.gateway.clients import quantile
from benchmarks.gateway.processes import Serving, gateway, module, server
from benchmarks.gateway.streams import Asking, Refused, Stream, asking, burst

STEP_MS, SEATS, TOKENS = 50, 32, 32
FACTOR = 10
IDLE = 5000
WARM_UP_S, MEASURED_S = 20.0, 30.0
DEADLINE_S = 4


async def overload() -> None:
    with server(module("steady", str(STEP_MS), str(SEATS))) as direct, gateway(direct) as through:
        came, seconds = await burst(direct.url, SEATS, SEATS * 6, TOKENS)
        capacity = len(came) / seconds
        async with idle(through) as alive:
            load = Offered(through, capacity * FACTOR)
            await load.run(WARM_UP_S)
            memory_mb = through.memory_mb
            load.forget()
            await load.run(MEASURED_S)
            grown_mb = through.memory_mb - memory_mb
            print(load.report(capacity))
            held = f"idle connections alive: {await alive()} of {IDLE}"
            print(f"memory {memory_mb:.0f} MB, after it {grown_mb:+.1f} MB; {held}")


class Offered:
    """Requests at a rate, whoever is answered when."""

    def __init__(self, through: Serving, rate: float) -> None:
        self._through = through
        self._rate = rate
        self.forget()

    def forget(self) -> None:
        self._answered: list[Stream] = []
        self._refused: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._seconds = 0.0

    async def run(self, seconds: float) -> None:
        async with asking(self._through.url) as opened, asyncio.TaskGroup() as group:
            began, sent = time.perf_counter(), 0
            while (gone := time.perf_counter() - began) < seconds:
                while sent < gone * self._rate:
                    group.create_task(self._one(opened, sent))
                    sent += 1
                await asyncio.sleep(0.002)
            answered = len(self._answered)
            self._seconds += time.perf_counter() - began
        del self._answered[answered:]

    async def _one(self, opened: Asking, number: int) -> None:
        try:
            stream = await opened.ask(f"Question {number}", TOKENS, **{"X-SAGE-Deadline": str(DEADLINE_S)})
        except Refused as refused:
            self._statuses[refused.status] += 1
            self._refused.append(refused.after_s)
        else:
            self._answered.append(stream)

    def report(self, capacity: float) -> str:
        goodput = len(self._answered) / self._seconds
        late = sum(after_s > 0.05 for after_s in self._refused) / len(self._refused)
        queued_s = max(stream.queued_s for stream in self._answered)
        return (
            f"{self._rate:.0f} requests/s offered, {capacity:.1f} possible, {goodput:.1f} answered "
            f"({goodput / capacity:.1%}; bar: 90%), longest queue {queued_s:.1f} s of {DEADLINE_S} allowed\n"
            f"{len(self._refused)} refused {dict(self._statuses)}: median {quantile(self._refused, 0.5) * 1e3:.1f} ms, "
            f"p99 {quantile(self._refused, 0.99) * 1e3:.1f} ms, {late:.1%} later than 50 ms"
        )


@asynccontextmanager
async def idle(through: Serving) -> AsyncIterator[object]:
    """Connections that send nothing. Yields what counts those that still get an answer."""
    at = urlsplit(through.url)
    opened = [await asyncio.open_connection(at.hostname, at.port) for _ in range(IDLE)]

    async def alive() -> int:
        count = 0
        for reader, writer in opened:
            writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            count += (await reader.readline()).startswith(b"HTTP/1.1 200")
        return count

    try:
        yield alive
    finally:
        for _, writer in opened:
            writer.close()
