"""Equal jobs of a manager before one endpoint: ``python -m benchmarks.scheduling_jobs [--direct] 1 2 4 8``.

Real processes: a manager, its gateway, a simulated endpoint (profile `peaked`: best at about 18 requests at once, half
as good at 34) and the jobs, which share the same number of records. Counted from when the last job has had its first
answer until the first job has had its last: how many answers a second, of all jobs, and of the slowest beside the
quickest. With --direct, jobs ask the endpoint themselves, each with a limit of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage.jobs.client import Client
from sage.jobs.folder import StateFolder

RECORDS, ANSWER_TOKENS = 480, 32
BAR_EFFICIENCY, BAR_APART = 0.95, 0.05
FLOW = """
import sys, time
import sage
from sage.connectors import Items, JsonLines
from sage.rag import Generate

name, records, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pipeline = sage.Pipeline(name)
questions = pipeline.read(Items([{"prompt": f"question {n}"} for n in range(records)]))
questions.map(Generate(max_tokens=tokens)).map(lambda r: {"at": time.monotonic()}).write(JsonLines(f"{name}.jsonl"))
"""


def main(arguments: Sequence[str]) -> None:
    direct = "--direct" in arguments
    counts = [int(one) for one in arguments if one != "--direct"] or [1, 2, 4, 8]
    alone = None
    print(f"{'directly' if direct else 'through the gateway'}, {RECORDS} records of {ANSWER_TOKENS} tokens in all")
    for count in counts:
        rates = measured(count, direct=direct)
        total = sum(rates)
        alone = alone or total
        apart = 1 - min(rates) / max(rates)
        missed = "" if total / alone >= BAR_EFFICIENCY and apart <= BAR_APART else "   MISSED"
        print(
            f"{count} jobs: {total:6.2f} answers/s, efficiency {total / alone:6.1%} (bar {BAR_EFFICIENCY:.0%}),"
            f" slowest {apart:5.1%} below the quickest (bar {BAR_APART:.0%}){missed}",
            flush=True,
        )


def measured(count: int, *, direct: bool) -> list[float]:
    """Answers a second of each job while all were busy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        endpoint = _started(folder, "endpoint", "simulate", "--profile", "peaked", "--port", "0")
        assert endpoint.stdout is not None
        url = endpoint.stdout.readline().strip().removesuffix("/v1")
        (folder / "sage.toml").write_text(f'data_dir = "data"\nllm_url = "{url}"\n')
        (folder / "flow.py").write_text(FLOW)
        manager = _started(folder, "jobmanager", "start", "--detached", "--max-jobs", str(count))
        try:
            assert manager.stdout is not None
            json.loads(manager.stdout.readline())
            _run_jobs(folder, count, direct=direct)
        finally:
            for process in (manager, endpoint):
                process.terminate()
                process.wait()
        return rates_of([_moments(folder / f"job{number}.jsonl") for number in range(count)])


def rates_of(moments: Sequence[Sequence[float]]) -> list[float]:
    begins, ends = max(times[0] for times in moments), min(times[-1] for times in moments)
    return [sum(begins < at <= ends for at in times) / (ends - begins) for times in moments]


def _run_jobs(folder: Path, count: int, *, direct: bool) -> None:
    client = Client(StateFolder(folder / "data"))
    spec: dict[str, Any] = {"file": str(folder / "flow.py"), "folder": str(folder), "shared_endpoints": not direct}
    jobs = []
    for number in range(count):
        arguments = [f"job{number}", str(RECORDS // count), str(ANSWER_TOKENS)]
        jobs.append(client.submit({**spec, "arguments": arguments})["id"])
    while any(found["state"] in ("PENDING", "STARTING", "RUNNING") for found in client.list()):
        time.sleep(0.2)
    for job in jobs:
        found = client.show(job)
        if found["state"] != "SUCCEEDED":
            sys.exit(f"{found['state']}: {found['reason']}")


def _started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "sage", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True)


def _moments(file: Path) -> list[float]:
    return sorted(json.loads(line)["at"] for line in file.read_text().splitlines())


if __name__ == "__main__":
    main(sys.argv[1:])
