"""A gateway with 256 MB under requests that ask for too much: how soon each is refused, and how long others wait.

The memory is a control group's where one can be made (cgroup v1, root), else a limit of the process's data.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
from benchmarks.gateway.clients import MODEL, quantile, session
from benchmarks.gateway.processes import gateway, module, server

MEMORY_BYTES = 256 << 20
GROUPS = Path("/sys/fs/cgroup/memory")
ROUNDS = 3
EVERY_S = 0.005
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def bodies() -> Iterator[tuple[str, bytes]]:
    for what, change in (
        ("n = 1,000,000", {"n": 1_000_000}),
        ("max_tokens = 2^63", {"max_tokens": 2**63}),
        ("100,000 stops", {"stop": ["x"] * 100_000}),
        ("200,000 biases", {"logit_bias": dict.fromkeys(map(str, range(200_000)), 1)}),
        ("100,000 tools", {"tools": [{"type": "function"}] * 100_000}),
        ("150,000 messages", {"messages": CHAT["messages"] * 150_000}),  # type: ignore[operator]
    ):
        yield what, json.dumps(CHAT | change).encode()
    yield "1,000,000 levels of lists", b"[" * (1 << 20)
    yield "1,000,000 levels of objects", b'{"a":' * (1 << 20)
    yield "6 MB of escapes", b'{"model": "' + b"\\u0041" * (1 << 20) + b'"}'
    yield "9 MB", b" " * (9 << 20)


async def hostile() -> None:
    with server(module("noop")) as endpoint, gateway(endpoint) as through, little_memory(through.pid) as limit:
        async with session() as opened:
            stop = asyncio.Event()
            probing = asyncio.create_task(probe(opened, through.url.removesuffix("/v1"), stop))
            slowest = [
                (await refused(opened, through.url, body), what) for _ in range(ROUNDS) for what, body in bodies()
            ]
            stop.set()
            waits = await probing
        took_s, what = max(slowest)
        print(
            f"256 MB ({limit}): {len(slowest)} requests that ask for too much, all refused with 4xx; the slowest "
            f"({what}) in {took_s * 1e3:.0f} ms (bar: 100); others' /live meanwhile: median "
            f"{quantile(waits, 0.5) * 1e3:.1f} ms, longest {max(waits) * 1e3:.0f} ms (bar: 200); "
            f"memory {through.memory_mb:.0f} MB, alive"
        )


async def refused(opened: aiohttp.ClientSession, url: str, body: bytes) -> float:
    began = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    with suppress(aiohttp.ClientOSError):  # it hung up on a body that it does not take
        async with opened.post(f"{url}/chat/completions", data=body, headers=headers) as answer:
            await answer.read()
            assert 400 <= answer.status < 500, answer.status
    return time.perf_counter() - began


async def probe(opened: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> list[float]:
    waits = []
    while not stop.is_set():
        began = time.perf_counter()
        async with opened.get(f"{url}/live") as answer:
            assert answer.status == 200
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(EVERY_S)
    return waits


@contextmanager
def little_memory(pid: int) -> Iterator[str]:
    """What keeps the process to it."""
    group = GROUPS / f"sage-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        resource.prlimit(pid, resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        yield "RLIMIT_DATA"
        return
    home = GROUPS / "cgroup.procs"
    try:
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
        (group / "cgroup.procs").write_text(str(pid))
        yield "control group"
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            home.write_text(left)
        group.rmdir()
