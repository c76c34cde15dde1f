"""Equal jobs of a manager before one endpoint: ``python -m benchmarks.scheduling_jobs [OPTION...] 1 2 4 8``.

Real processes: a manager, its gateway, the jobs, and a simulated endpoint. Each job has `IN_FLIGHT` records in flight
at most, and the endpoint takes as many as ten such jobs have, each as quickly as one alone: so what is missing from
eight times the throughput of one job is SAGE's. With --saturated each job asks as much as it may, and the endpoint is
best at about 18 requests at once and half as good at 34 (profile `peaked`): one job and eight should get the same out
of it. With --direct, jobs ask the endpoint themselves, each with a limit of its own. With --urgent the first job has
priority 0, and all others have priority 9 and ask as much as they may: its p99, from read to written, beside its p99
alone.

Counted from `WARM_S` after the last job has had its first answer until the first job has had its last: how many answers
a second, of all jobs, and of the slowest beside the quickest. In the first seconds the gateway finds the endpoint's
limit: it begins with 8 requests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.bench.statistics import percentile
from sage.jobs.client import Client
from sage.jobs.folder import StateFolder
from sage.llm.simulated import Profile, SimulatedEndpoint, profile_named

RECORDS, ANSWER_TOKENS = 240, 32
"""Of each job; with --saturated, three times as many records of all jobs."""
WARM_S = 6.0
IN_FLIGHT = 4
ROOMY = Profile(
    "roomy", "roomy-model", step_s=10e-3, weights_s=0.0, token_s=0.0, context_s=0.0, attention_s=0.0,
    blocks=16_384, max_seqs=10 * IN_FLIGHT, jitter=0.02,
)  # fmt: skip
BAR_EFFICIENCY, BAR_APART, BAR_URGENT = 0.95, 0.05, 1.2
Answer = Mapping[str, float]
"""Since when it was asked for, and when it came."""
FLOW = """
import sys, time
from pathlib import Path
import sage
from sage.connectors import Items, JsonLines
from sage.rag import Generate

name, jobs, records, tokens = sys.argv[1], *map(int, sys.argv[2:])
Path(f"{name}.began").touch()
while len(list(Path().glob("*.began"))) < jobs:  # all begin together, however long Python takes to start
    time.sleep(0.05)
pipeline = sage.Pipeline(name)
questions = pipeline.read(Items([{"prompt": f"question {n}"} for n in range(records)]))
asked = questions.map(lambda r: {**r, "since": time.monotonic()}, name="since")
answers = asked.map(Generate(max_tokens=tokens)).map(lambda r: {"since": r["since"], "at": time.monotonic()}, name="at")
answers.write(JsonLines(f"{name}.jsonl"))
"""


def main(arguments: Sequence[str]) -> None:
    direct, saturated = "--direct" in arguments, "--saturated" in arguments
    counts = [int(one) for one in arguments if not one.startswith("--")] or [1, 2, 4, 8]
    if "--urgent" in arguments:
        urgent(counts)
        return
    alone = None
    print(f"{'directly' if direct else 'through the gateway'}, {'saturated' if saturated else 'room for ten jobs'}")
    for count in counts:
        rates = measured(count, direct=direct, saturated=saturated)
        total = sum(rates)
        alone = alone or total / count
        efficiency = total / alone / (1 if saturated else count)
        apart = 1 - min(rates) / max(rates)
        missed = "" if efficiency >= BAR_EFFICIENCY and apart <= BAR_APART else "   MISSED"
        print(
            f"{count} jobs: {total:6.2f} answers/s, efficiency {efficiency:6.1%} (bar {BAR_EFFICIENCY:.0%}),"
            f" slowest {apart:5.1%} below the quickest (bar {BAR_APART:.0%}){missed}",
            flush=True,
        )


def measured(count: int, *, direct: bool, saturated: bool) -> list[float]:
    """Answers a second of each job while all were busy."""
    profile = profile_named("peaked") if saturated else ROOMY
    records = 3 * RECORDS // count if saturated else RECORDS
    spec = {"shared_endpoints": not direct, "max_in_flight": None if saturated else IN_FLIGHT}
    return rates_of([[answer["at"] for answer in job] for job in ran(profile, records, [spec] * count)])


def urgent(counts: Sequence[int]) -> None:
    first = {"priority": 0, "max_in_flight": IN_FLIGHT}
    alone_s = None
    for count in counts:
        jobs = ran(ROOMY, RECORDS, [first, *[{"priority": 9}] * (count - 1)])
        found_s = p99_s(jobs[0])
        alone_s = alone_s or found_s
        missed = "" if found_s <= BAR_URGENT * alone_s else "   MISSED"
        total = sum(rates_of([[answer["at"] for answer in job] for job in jobs]))
        print(
            f"{count} jobs: p99 of the urgent one {found_s * 1e3:.0f} ms, {found_s / alone_s:.2f} of that alone"
            f" (bar {BAR_URGENT}); {total:.1f} answers/s of all{missed}",
            flush=True,
        )


def p99_s(job: Sequence[Answer]) -> float:
    """From read to answer, of the records that were read when all was warm."""
    warm = [each["at"] - each["since"] for each in job if each["since"] > job[0]["at"] + WARM_S]
    return percentile(sorted(warm), 0.99)


def ran(profile: Profile, records: int, specs: Sequence[Mapping[str, Any]]) -> list[list[Answer]]:
    """The answers of each job, by time."""
    count = len(specs)
    with tempfile.TemporaryDirectory() as name, SimulatedEndpoint(profile) as endpoint:
        folder = Path(name)
        (folder / "sage.toml").write_text(f'data_dir = "data"\nllm_url = "{endpoint.url}"\n')
        (folder / "flow.py").write_text(FLOW)
        command = [sys.executable, "-m", "sage", "jobmanager", "start", "--detached", "--max-jobs", str(count)]
        manager = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert manager.stdout is not None
            json.loads(manager.stdout.readline())
            _run_jobs(folder, records, specs)
        finally:
            manager.terminate()
            manager.wait()
        return [_answers(folder / f"job{number}.jsonl") for number in range(count)]


def rates_of(moments: Sequence[Sequence[float]]) -> list[float]:
    begins, ends = WARM_S + max(times[0] for times in moments), min(times[-1] for times in moments)
    return [sum(begins < at <= ends for at in times) / (ends - begins) for times in moments]


def _run_jobs(folder: Path, records: int, specs: Sequence[Mapping[str, Any]]) -> None:
    client = Client(StateFolder(folder / "data"))
    jobs = []
    for number, spec in enumerate(specs):
        arguments = [f"job{number}", *map(str, (len(specs), records, ANSWER_TOKENS))]
        flow = {"file": str(folder / "flow.py"), "folder": str(folder), "arguments": arguments, **spec}
        jobs.append(client.submit(flow)["id"])
    while any(found["state"] in ("PENDING", "STARTING", "RUNNING") for found in client.list()):
        time.sleep(0.2)
    for job in jobs:
        found = client.show(job)
        if found["state"] != "SUCCEEDED":
            sys.exit(f"{found['state']}: {found['reason']}")


def _answers(file: Path) -> list[Answer]:
    return sorted(map(json.loads, file.read_text().splitlines()), key=lambda answer: answer["at"])


if __name__ == "__main__":
    main(sys.argv[1:])
