"""Requests a second that cost the endpoint nothing: the gateway and LiteLLM's proxy in turns, one process each.

LiteLLM must be in an environment of its own, whose Python ``LITELLM_PYTHON`` names; without it only the gateway is
measured. It runs one worker without a database, logs nothing and retries nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
from benchmarks.gateway.clients import MODEL, session
from benchmarks.gateway.processes import Serving, gateway, module, server

AT_ONCE = 32
REQUESTS = 500
ROUNDS = 3
START_S = 180.0
BODY = msgspec.json.encode({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # neither of the two checks a key
}
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"}


async def rate() -> None:
    with server(module("noop")) as endpoint, gateway(endpoint) as ours, litellm(endpoint) as theirs:
        sides = {"the gateway": ours} | ({"LiteLLM": theirs} if theirs else {})
        rates: dict[str, list[float]] = {name: [] for name in sides}
        cpu_ms: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):
            for name, side in sides.items():
                before = side.cpu_s
                rates[name].append(await measured(side.url))
                cpu_ms[name].append((side.cpu_s - before) / REQUESTS * 1e3)
    for name in sides:
        median = statistics.median(rates[name][1:])
        print(f"{name}: {median:.0f} requests/s, {statistics.median(cpu_ms[name][1:]):.2f} ms of processor time each")
    if theirs is None:
        print("LiteLLM was not measured: LITELLM_PYTHON names no environment that has it")
    else:
        ratio = statistics.median(rates["the gateway"][1:]) / statistics.median(rates["LiteLLM"][1:])
        print(f"the gateway does {ratio:.1f} times the requests of LiteLLM. Bar: at least 2")


async def measured(url: str) -> float:
    """A first round warms up, and counts for nothing."""
    numbers = iter(range(REQUESTS))

    async def client(opened: aiohttp.ClientSession) -> None:
        for _ in numbers:
            async with opened.post(f"{url}/chat/completions", data=BODY, headers=HEADERS) as answer:
                said = await answer.read()
                assert answer.status == 200, said

    async with session() as opened:
        began = time.perf_counter()
        await asyncio.gather(*(client(opened) for _ in range(AT_ONCE)))
        return REQUESTS / (time.perf_counter() - began)


@contextmanager
def litellm(endpoint: Serving) -> Iterator[Serving | None]:
    python = os.environ.get("LITELLM_PYTHON")
    if not python:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "model_list": [
            {"model_name": MODEL, "litellm_params": {
                "model": f"openai/{MODEL}", "api_base": endpoint.url, "api_key": "none"}}
        ],
        "litellm_settings": {"num_retries": 0, "telemetry": False, "set_verbose": False},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "litellm.yaml")
        file.write_bytes(msgspec.json.encode(config))  # JSON is YAML
        command = [
            str(Path(python).parent / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port),
            "--num_workers", "1", "--telemetry", "False",
        ]  # fmt: skip
        with subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        ) as process:
            try:
                wait_for(port, process)
                yield Serving(f"http://127.0.0.1:{port}/v1", process.pid)
            finally:
                process.send_signal(signal.SIGTERM)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("LiteLLM did not start")
