"""What a job feels of its neighbours: ``python -m benchmarks.scheduling_isolation [--equal] [NAME...]``: six minutes.

A job of one manager waits 20 ms for each of its records, four at a time, as for an endpoint; its p99 from read to
written is measured alone, and beside a job that crashes again and again, floods its log and its disk, leaks until it is
ended, hangs, or computes on all processors, at a tenth of the weight; with --equal, at the same weight. Runs alone and
beside it take turns, and the medians of `PAIRS` count. The bar: 10% more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sage.jobs.client import Client
from sage.jobs.folder import StateFolder

RECORDS = 1000
IN_FLIGHT = 8
"""Of the job that is measured: most of its latency is its work, and not waiting for its own records."""
BAR = 1.10
PAIRS = 3
VICTIM = """
import time
import sage
from sage.connectors import Items, JsonLines

def wait(n):
    time.sleep(0.02)
    return {"n": n}

pipeline = sage.Pipeline("victim")
pipeline.read(Items(range(RECORDS))).map(wait, concurrency=4).write(JsonLines("victim.jsonl"))
""".replace("RECORDS", str(RECORDS))
HEAD = "import itertools, os, time\nimport sage\nfrom sage.connectors import Items, JsonLines\n"
BODY = """
pipeline = sage.Pipeline("neighbour")
pipeline.read(Items(itertools.count())).map(work{options}).write(JsonLines("neighbour.jsonl"))
"""
NEIGHBOURS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "crashes": (HEAD + "time.sleep(0.3)\nos.abort()\n", {"weight": 0.1}),
    "floods": (
        HEAD + "def work(n):\n    print('x' * 1000)\n    time.sleep(0.001)\n    return {'n': 'x' * 1000}\n"
        + BODY.format(options=""),
        {"weight": 0.1},
    ),
    "leaks": (
        HEAD + "kept = []\ndef work(n):\n    kept.append(b'x' * 100_000 * (n % 7 + 1))\n    return {'n': n}\n"
        + BODY.format(options=""),
        {"weight": 0.1, "memory_bytes": 512 << 20},
    ),
    "hangs": (HEAD + "def work(n):\n    time.sleep(3600)\n" + BODY.format(options=", concurrency=64"), {}),
    "computes": (
        HEAD + "def work(n):\n    return {'n': sum(range(20_000))}\n" + BODY.format(options=""),
        {"weight": 0.1, "processes": 2},
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    equal = "--equal" in arguments
    names = [one for one in arguments if one != "--equal"]
    for name in names or list(NEIGHBOURS):
        pairs = [(p99_beside(None, equal=equal), p99_beside(name, equal=equal)) for _ in range(PAIRS)]
        alone_s, found_s = (median(each) for each in zip(*pairs, strict=True))
        missed = "" if found_s <= BAR * alone_s else "   MISSED"
        ratios = " ".join(f"{beside / alone:.2f}" for alone, beside in pairs)
        print(
            f"{name:<10} p99 {found_s * 1e3:6.1f} ms, alone {alone_s * 1e3:6.1f}: {found_s / alone_s:5.2f}"
            f" (bar {BAR}; pairs {ratios}){missed}",
            flush=True,
        )


def p99_beside(name: str | None, *, equal: bool) -> float:
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        (folder / "sage.toml").write_text('data_dir = "data"\n')
        (folder / "victim.py").write_text(VICTIM)
        command = [sys.executable, "-m", "sage", "jobmanager", "start", "--detached"]
        manager = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert manager.stdout is not None
            json.loads(manager.stdout.readline())
            return _p99_s(Client(StateFolder(folder / "data")), folder, name, equal=equal)
        finally:
            manager.terminate()
            manager.wait()


def _p99_s(client: Client, folder: Path, name: str | None, *, equal: bool) -> float:
    neighbour = None
    if name is not None:
        text, spec = NEIGHBOURS[name]
        spec = {**spec, "weight": 1.0} if equal else spec
        (folder / "neighbour.py").write_text(text)
        neighbour = client.submit({"file": str(folder / "neighbour.py"), "folder": str(folder), **spec})["id"]
        _until(lambda: client.show(neighbour)["state"] != "PENDING")
        time.sleep(1.0)  # it has begun what it does
    flow = {"file": str(folder / "victim.py"), "folder": str(folder), "max_in_flight": IN_FLIGHT}
    victim = client.submit(flow)["id"]
    while client.show(victim)["state"] in ("PENDING", "STARTING", "RUNNING"):
        if neighbour is not None and client.show(neighbour)["state"] in ("FAILED", "LOST"):
            client.resume(neighbour)
        time.sleep(0.2)
    if neighbour is not None:
        for _ in range(2):
            client.stop(neighbour)
        _until(lambda: client.show(neighbour)["state"] in ("CANCELLED", "FAILED", "LOST"))
    (result,) = client.show(victim)["results"]
    found: float = result["p99_s"]
    return found


def _until(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
