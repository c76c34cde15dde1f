"""The simulated endpoint: its model of time against published figures of vLLM, and the server's own cost.

python benchmarks/endpoint.py model      the table of docs/endpoints.md, in virtual time
python benchmarks/endpoint.py server     processor time a chunk, and how many streams stay true
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import urlopen

from sage.llm.simulated import PROFILES, Engine, Profile, Request, SimulatedEndpoint
from sage.llm.simulated.profile import A100, H100, QWEN_3B, QWEN_7B, Gpu, Model

A100_40 = replace(A100, name="A100 40 GB", bandwidth=1555e9, memory_bytes=42.4e9)
H200 = replace(H100, name="H200", bandwidth=4800e9, memory_bytes=150e9)
QWEN_05B = Model("Qwen2.5-0.5B", 0.36e9, 0.136e9, layers=24, width=896, kv_width=128)
QWEN_15B = Model("Qwen2.5-1.5B", 1.31e9, 0.233e9, layers=28, width=1536, kv_width=256)
QWEN3_8B = Model("Qwen3-8B", 6.95e9, 0.622e9, layers=36, width=4096, kv_width=1024)
QWEN3_14B = Model("Qwen3-14B", 13.2e9, 0.778e9, layers=40, width=5120, kv_width=1024)
LLAMA_8B = Model("Llama-3.1-8B", 6.98e9, 0.525e9, layers=32, width=4096, kv_width=1024)
VLLM_06_LAYER_S = 120e-6

What = Literal["out tok/s", "in+out tok/s", "ms/token", "s/request", "times one"]


@dataclass(frozen=True)
class Published:
    """One figure that somebody measured with vLLM. `fitted`: a constant of the model comes from it."""

    source: str
    gpu: Gpu
    model: Model
    requests: int
    concurrency: int
    tokens_in: int
    tokens_out: int
    what: What
    figure: float
    fitted: bool = False
    old: bool = False
    """vLLM 0.6, before V1."""


QWEN = "Qwen2.5 speed benchmark, vLLM 0.6.3"
STACK = "gpustack performance lab, vLLM 0.11"
PUBLISHED = [
    Published(QWEN, A100, QWEN_05B, 1, 1, 1, 2048, "out tok/s", 311.55, fitted=True, old=True),
    Published(QWEN, A100, QWEN_15B, 1, 1, 1, 2048, "out tok/s", 183.33, fitted=True, old=True),
    Published(QWEN, A100, QWEN_3B, 1, 1, 1, 2048, "out tok/s", 127.61, old=True),
    Published(QWEN, A100, QWEN_3B, 1, 1, 6144, 2048, "out tok/s", 123.15, old=True),
    Published(QWEN, A100, QWEN_3B, 1, 1, 14_336, 2048, "out tok/s", 117.35, old=True),
    Published(QWEN, A100, QWEN_3B, 1, 1, 30_720, 2048, "out tok/s", 105.88, old=True),
    Published(QWEN, A100, QWEN_7B, 1, 1, 1, 2048, "out tok/s", 84.28, fitted=True, old=True),
    Published(QWEN, A100, QWEN_7B, 1, 1, 30_720, 2048, "out tok/s", 70.33, old=True),
    Published("vLLM's own CI, build 9515", H200, LLAMA_8B, 8, 8, 32, 128, "s/request", 0.833, old=True),
    Published("johnmusgrave.com, vLLM 0.23", A100_40, LLAMA_8B, 20, 1, 1024, 128, "ms/token", 13.3, fitted=True),
    Published("johnmusgrave.com, vLLM 0.23", A100_40, LLAMA_8B, 160, 8, 1024, 128, "times one", 6.6),
    Published("yobitel bench, vLLM 0.21", H100, LLAMA_8B, 20, 1, 128, 128, "ms/token", 6.48, fitted=True),
    Published("yobitel bench, vLLM 0.21", H100, LLAMA_8B, 80, 4, 128, 128, "ms/token", 6.59),
    Published("yobitel bench, vLLM 0.21", H100, LLAMA_8B, 320, 16, 128, 128, "ms/token", 10.94),
    Published("yobitel bench, vLLM 0.21", H100, LLAMA_8B, 640, 64, 128, 128, "ms/token", 46.91),
    Published(STACK, H100, QWEN3_8B, 100, 4, 233, 221, "out tok/s", 496.88),
    Published(STACK, H100, QWEN3_8B, 100, 4, 233, 221, "ms/token", 7.38),
    Published(STACK, A100, QWEN3_14B, 1000, 1000, 128, 4, "in+out tok/s", 4916.63),
    Published(STACK, A100, QWEN3_14B, 500, 500, 2000, 100, "in+out tok/s", 5967.13, fitted=True),
    Published(STACK, A100, QWEN3_14B, 500, 500, 4000, 200, "in+out tok/s", 5153.42),
    Published(STACK, A100, QWEN3_14B, 100, 100, 32_000, 100, "in+out tok/s", 4430.14),
    Published(STACK, H100, QWEN3_14B, 1000, 1000, 128, 4, "in+out tok/s", 5796.73),
    Published(STACK, H100, QWEN3_14B, 500, 500, 2000, 100, "in+out tok/s", 10_597.19, fitted=True),
    Published(STACK, H100, QWEN3_14B, 500, 500, 4000, 200, "in+out tok/s", 9218.03),
    Published(STACK, H100, QWEN3_14B, 100, 100, 32_000, 100, "in+out tok/s", 8298.56),
]


def modelled(row: Published) -> float:
    """The same load in virtual time: `concurrency` requests are kept in flight."""
    if row.what == "times one":
        rate = replace(row, what="out tok/s")
        return modelled(rate) / modelled(replace(rate, concurrency=1, requests=20))
    budget = 8192 if row.gpu.name.startswith("H") else 2048
    layer_s = VLLM_06_LAYER_S if row.old else 50e-6
    profile = Profile.of(
        "checked", row.gpu, row.model, layer_s=layer_s, max_batched_tokens=budget, max_model_len=40_960, jitter=0.0
    )
    engine = Engine(profile)

    def submit(number: int, now: float) -> None:
        blocks = range(number * 10_000, number * 10_000 + (row.tokens_in + row.tokens_out) // 16)
        engine.submit(Request(number, row.tokens_in, row.tokens_out, blocks), now)

    for number in range(min(row.concurrency, row.requests)):
        submit(number, 0.0)
    submitted = row.concurrency
    ended = []
    now = 0.0
    while (at := engine.next_event()) is not None:
        now = at
        step = engine.advance(at)
        for sequence in step.finished if step else ():
            ended.append(sequence)
            if submitted < row.requests:
                submit(submitted, now)
                submitted += 1
    out = row.requests * row.tokens_out
    if row.what == "out tok/s":
        return out / now
    if row.what == "in+out tok/s":
        return (out + row.requests * row.tokens_in) / now
    if row.what == "s/request":
        return sum((s.last_token_at or now) - s.arrived_at for s in ended) / len(ended)
    spans = [(s.last_token_at or now) - (s.first_token_at or now) for s in ended]
    return 1e3 * sum(spans) / len(spans) / (row.tokens_out - 1)


def compare_model() -> None:
    print("| source | GPU | model | in flight | in/out | figure | published | model | error |")
    print("|---|---|---|---|---|---|---|---|---|")
    held_out = []
    for row in PUBLISHED:
        found = modelled(row)
        error = found / row.figure - 1
        if not row.fitted:
            held_out.append(abs(error))
        fitted = " (fitted)" if row.fitted else ""
        print(
            f"| {row.source} | {row.gpu.name} | {row.model.name.split('/')[-1]} | {row.concurrency} | "
            f"{row.tokens_in}/{row.tokens_out} | {row.what} | {row.figure:.5g} | {found:.4g} | {error:+.0%}{fitted} |"
        )
    held_out.sort()
    print(f"not fitted: {len(held_out)} figures, median error {held_out[len(held_out) // 2]:.0%}, ", end="")
    print(f"largest {held_out[-1]:.0%}")


WINDOW_S = 5.0
STREAMS = (250, 1000, 2000, 3000)
TOKENS = 600
DELTA = b'"finish_reason": null'


def streaming_profile(streams: int) -> Profile:
    """An A100 with the 3B model that takes `streams` into one batch."""
    return replace(PROFILES["a100-qwen2.5-3b"], max_seqs=streams, max_batched_tokens=2 * streams + 8192, jitter=0.0)


def serve(streams: int) -> None:
    """In a process of its own: print the URL, serve until the end of standard input."""
    allow_open_files()
    with SimulatedEndpoint(streaming_profile(streams)) as endpoint:
        print(endpoint.url, flush=True)
        sys.stdin.read()


def allow_open_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Reader:
    """`count` streams read by one loop without asyncio, so that it is not what is measured."""

    def __init__(self, url: str, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._last_at: dict[int, float] = {}
        self.started: set[int] = set()
        self.chunks = 0
        self.gaps: list[float] = []
        address = (urlsplit(url).hostname, urlsplit(url).port)
        for number in range(count):
            body = json.dumps({
                "messages": [{"role": "user", "content": f"{number}"}],
                "max_tokens": TOKENS, "ignore_eos": True, "stream": True,
            }).encode()  # fmt: skip
            connection = socket.create_connection(address)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ)

    def read_until(self, end: float) -> None:
        """Read for a while; raises if a stream ends."""
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._read(key.fileobj, key.fd)  # type: ignore[arg-type]

    def _read(self, connection: socket.socket, number: int) -> None:
        data = connection.recv(1 << 16)
        now = time.monotonic()
        found = data.count(DELTA)
        assert data, "a connection was closed while it was measured"
        assert b"[DONE]" not in data, "a stream ended while it was measured"
        self.chunks += found
        if found:
            self.started.add(number)
            if number in self._last_at:
                self.gaps.append(now - self._last_at[number])
                self.gaps += [0.0] * (found - 1)
            self._last_at[number] = now

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def engine_gaps(url: str) -> tuple[float, float]:
    """Sum and number of the times between tokens, by the server's own reckoning."""
    with urlopen(f"{url}/metrics") as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines()]
    values = {name.partition("{")[0]: float(value) for name, value in lines if "inter_token_latency_seconds_" in name}
    return values["vllm:inter_token_latency_seconds_sum"], values["vllm:inter_token_latency_seconds_count"]


def measure_server() -> None:
    allow_open_files()
    print("| streams | ms between tokens, model | as read: mean | p50 | p99 | chunks/s | cpu us/chunk | of one core |")
    print("|---|---|---|---|---|---|---|---|")
    for streams in STREAMS:
        command = [sys.executable, __file__, "serve", str(streams)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            reader = Reader(url, streams)
            until = time.monotonic() + 60
            while len(reader.started) < streams and time.monotonic() < until:
                reader.read_until(time.monotonic() + 0.1)
            before, (sum_before, count_before) = processor_s(server.pid), engine_gaps(url)
            reader.chunks, reader.gaps, start = 0, [], time.monotonic()
            reader.read_until(start + WINDOW_S)
            took_s, used_s = time.monotonic() - start, processor_s(server.pid) - before
            sum_after, count_after = engine_gaps(url)
            reader.close()
            server.terminate()
        model_ms = 1e3 * (sum_after - sum_before) / (count_after - count_before)
        gaps = sorted(1e3 * gap for gap in reader.gaps)
        mean, p50, p99 = sum(gaps) / len(gaps), gaps[len(gaps) // 2], gaps[len(gaps) * 99 // 100]
        print(
            f"| {streams} | {model_ms:.1f} | {mean:.1f} ({mean / model_ms - 1:+.1%}) | {p50:.1f} | {p99:.1f} | "
            f"{reader.chunks / took_s:,.0f} | {1e6 * used_s / reader.chunks:.1f} | {used_s / took_s:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model"]:
            compare_model()
        case ["server"]:
            measure_server()
        case ["serve", count]:
            serve(int(count))
        case _:
            sys.exit(__doc__)
