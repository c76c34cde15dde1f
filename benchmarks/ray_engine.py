"""The engine on a cluster: `make bench-ray`, or `python benchmarks/ray_engine.py [NAME...] [--nodes 1,2,4] [--apart]`.

Nodes are real nodes of Ray on this machine, joined by its memory; `--apart`: by links, as if each had a machine. What
waits (a call of 500 ms, a task that sleeps 25 ms) can be measured with more nodes than processors; rates come from the
operators' own clocks, between the first call's begin and the last one's end, and processor time is that of the driver
and all hosts together. Every run proves its account first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sage
from sage import cluster
from sage.connectors import Items

TICKS = os.sysconf("SC_CLK_TCK")
SLOTS = 8
SAID = argparse.Namespace(apart=False)
"""What the command line said."""
RAY_DATA_W1 = 15_000
"""Records a second of Ray Data on W1, the higher figure of the published comparison on a machine of this kind."""


class Call(NamedTuple):
    process: int
    began_s: float
    ended_s: float
    used_s: float
    """Processor time of its process until then."""


async def generate(record: int) -> Call:
    began_s = time.monotonic()
    await asyncio.sleep(0.5)
    return Call(os.getpid(), began_s, time.monotonic(), time.process_time())


def compute(record: int) -> Call:
    began_s = time.monotonic()
    time.sleep(0.025)
    return Call(os.getpid(), began_s, time.monotonic(), time.process_time())


def run(pipeline: sage.Pipeline, **options: Any) -> sage.RunResult:
    result = sage.start(pipeline, sage.RunOptions(engine="ray", **options)).wait()
    assert result.status is sage.Status.SUCCEEDED, result.error
    return result


def scaled(step: Callable[[int], Any], seconds: float, nodes: int, rounds: int) -> None:
    records = SLOTS * nodes * rounds
    before: list[float] = []

    def numbers() -> Iterator[int]:
        before.append(time.process_time())
        yield from range(records)

    pipeline = sage.Pipeline("scaled")
    pipeline.read(Items(numbers)).map(step, name="step", concurrency=SLOTS, parallelism=nodes).collect()
    result = run(pipeline, hosts=nodes)
    calls: list[Call] = result.collected()
    used_s = time.process_time() - before[0]
    spans = {}
    for call in calls:
        first, last = spans.get(call.process, (call.used_s, call.used_s))
        spans[call.process] = min(first, call.used_s), max(last, call.used_s)
    hosts_s = sum(last - first for first, last in spans.values())
    ways = Counter(placed.where.rpartition("reached ")[2] for placed in result.placed)
    took_s = max(call.ended_s for call in calls) - min(call.began_s for call in calls)
    ideal_s = rounds * seconds
    print(
        f"  {nodes:2} nodes  {records / took_s:8.1f}/s  efficiency {ideal_s / took_s:6.1%}  "
        f"{(used_s + hosts_s) / records * 1e6:6.0f} us of processor a record ({used_s / records * 1e6:.0f} of the "
        f"driver's), reached {', '.join(f'{way}: {count}' for way, count in ways.items())}; {len(spans)} hosts worked",
        flush=True,
    )


def rag(nodes: list[int]) -> None:
    print(f"RAG: an async call of 500 ms, {SLOTS} in flight a node")
    for count in nodes:
        with connected(count):
            scaled(generate, 0.5, count, 24)


def tasks(nodes: list[int]) -> None:
    print(f"compute: a task that sleeps 25 ms, {SLOTS} threads a node")
    for count in nodes:
        with connected(count):
            scaled(compute, 0.025, count, 200)


def w1(nodes: list[int]) -> None:
    print("W1: 200,000 integers through map, map, filter, list; 2 hosts")
    began_s = time.perf_counter()
    wanted = [n for n in ((n + 1) * 2 for n in range(200_000)) if n % 4 == 0]
    plain = 200_000 / (time.perf_counter() - began_s)
    with connected(2):
        for _ in range(3):
            pipeline = sage.Pipeline("w1")
            stream = pipeline.read(Items(range(200_000))).map(lambda n: n + 1, name="add")
            stream.map(lambda n: n * 2, name="double").filter(lambda n: n % 4 == 0, name="keep").collect()
            began_s = time.perf_counter()
            result = run(pipeline, hosts=2)
            whole_s = time.perf_counter() - began_s
            assert sorted(result.collected()) == wanted
            rate = 200_000 / result.elapsed_s
            print(
                f"  {rate:10,.0f}/s from the start of the hosts' work; {rate / plain:.3f} of a plain loop, "
                f"{rate / RAY_DATA_W1:.1f} times Ray Data; {whole_s:.1f} s with the start of the hosts",
                flush=True,
            )


def w3(nodes: list[int]) -> None:
    print("W3: 2,000 records through four steps, the last waits 50 ms, 64 in flight; 2 hosts")

    async def wait(n: int) -> Call:
        began_s = time.monotonic()
        await asyncio.sleep(0.05)
        return Call(os.getpid(), began_s, time.monotonic(), 0.0)

    with connected(2):
        for _ in range(3):
            pipeline = sage.Pipeline("w3")
            stream = pipeline.read(Items(range(2_000)))
            for name in "abc":
                stream = stream.map(lambda n: n + 1, name=name)
            stream.map(wait, name="wait", concurrency=32, parallelism=2).collect()
            calls = run(pipeline, hosts=2).collected()
            took_s = max(call.ended_s for call in calls) - min(call.began_s for call in calls)
            print(f"  {took_s:.3f} s, {took_s / (32 * 0.05):.3f} of ideal (whole turns)", flush=True)


def idle(nodes: list[int]) -> None:
    print("idle: 4 steps with 64 instances each, on 2 hosts, for 10 s")
    pids: set[int] = set()
    used: list[float] = []

    def numbers() -> Iterator[int]:
        yield from range(2_000)
        time.sleep(3)
        for _ in range(2):
            used.append(sum(map(used_s_by, pids)))
            time.sleep(10)

    async def note(pid: int) -> int:  # at home
        pids.add(pid)
        return pid

    def first(record: int) -> int:
        time.sleep(0.001)
        return os.getpid()

    with connected(2):
        pids.add(os.getpid())
        pipeline = sage.Pipeline("idle")
        stream = pipeline.read(Items(numbers)).map(first, parallelism=64)
        for number in range(3):
            stream = stream.map(lambda pids: pids, name=f"step{number}", batch_size=1, parallelism=64)
        stream.map(note).collect()
        run(pipeline, hosts=2)
    print(f"  {(used[1] - used[0]) / 10:.1%} of a core, over {len(pids)} processes", flush=True)


class Worked(NamedTuple):
    record: int
    process: int
    session: int
    """Of its node."""
    at_s: float


def work(record: int) -> Worked:
    time.sleep(0.02)
    return Worked(record, os.getpid(), os.getsid(0), time.monotonic())


def failover(nodes: list[int]) -> None:
    """The last of the numbers says how many nodes; all processes of one of them are killed in mid-run."""
    count = max(2, nodes[-1])
    records = 600 * count
    print(
        f"failover: {records:,} records of 20 ms, one at a time on each of {count} nodes; one node is killed (SIGKILL)"
    )
    seen: dict[int, int] = {}

    async def note(worked: Worked) -> Worked:  # at home
        seen[worked.process] = worked.session
        return worked

    with connected(count) as made:
        pipeline = sage.Pipeline("failover")
        pipeline.read(Items(range(records))).map(work, name="work").map(note, name="note").collect()
        job = sage.start(pipeline, sage.RunOptions(engine="ray", hosts=count))
        while len(seen) < count or job.snapshot().account.written < records / 4:
            time.sleep(0.01)
        killed_s = time.monotonic()
        os.kill(made.nodes[-1].pid, signal.SIGKILL)  # its keeper kills what else was in its session
        while not job.snapshot().restarts:
            time.sleep(0.001)
        told_s = time.monotonic() - killed_s
        result = job.wait()
    assert result.error is None, result.error
    numbers = Counter(worked.record for worked in result.collected())
    times = sorted(worked.at_s - killed_s for worked in result.collected())
    before = sum(-5.0 < at_s < 0.0 for at_s in times) / min(5.0, -times[0])
    back = _seconds_until(times, 0.75 * before)
    print(
        f"  lost {records - len(numbers)}, repeated {sum(numbers.values()) - len(numbers)}; {before:.0f} records/s "
        f"before, told after {told_s:.1f} s, 3/4 of that rate again after {back} s; {result.restarts[0]}",
        flush=True,
    )


def _seconds_until(times: list[float], rate: float) -> str:
    """The end of the first second from which on so many records came in each of two seconds."""
    late = [at_s for at_s in times if at_s > 0.5]
    for at_s in late:
        if all(sum(at_s + second <= other < at_s + second + 1 for other in late) >= rate for second in range(2)):
            return f"{at_s:.1f}"
    return "never"


def used_s_by(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def connected(nodes: int) -> Iterator[cluster.Cluster]:
    """This process as the driver of a cluster of its own."""
    with cluster.private(nodes=nodes, cpus=1, apart=SAID.apart) as made, cluster.connect(made, log_to_driver=False):
        yield made


ALL: dict[str, Callable[[list[int]], None]] = {
    "rag": rag,
    "tasks": tasks,
    "w1": w1,
    "w3": w3,
    "idle": idle,
    "failover": failover,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine on a cluster.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--nodes", default="1,2,4,8", help="numbers of nodes")
    parser.add_argument("--apart", action="store_true", help="each node is a machine: links, not memory, join them")
    parser.parse_args(namespace=SAID)
    for name in SAID.names or ALL:
        ALL[name]([int(count) for count in SAID.nodes.split(",")])


if __name__ == "__main__":
    main()
