"""The engine against plain Python, in one run: ``make bench``.

Each figure is the median of several rounds; in every round SAGE and its peers take turns, so that a machine whose speed
drifts does so for all of them. A ratio above 1: SAGE is quicker. No figure comes from a run that lost a record.

W1  200,000 integers through map(+1), map(*2), filter, list          SAGE / plain loop over the same functions: >= 0.60
W2  word count of 100 MB of text                                     SAGE / plain loop: >= 0.80
W3  2,000 records through four steps, the last awaits 50 ms, 64 at once; ideal 1.5625 s: within 5 %
W4  2,000 sleeps of 25 ms on 64 threads                              ideal 0.78125 s: within 3 %
    the same with steps that keep a processor busy, over 2 processes  SAGE / SAGE in one process: >= 1.6
W5  start of the process to the first record, and ``import sage``    under 250 ms, under 100 ms
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sage
from sage.connectors import Items, Text

WORDS_BYTES = 100_000_000


@dataclass(frozen=True)
class Row:
    """One comparison."""

    workload: str
    what: str
    sage: str
    peer: str
    ratio: float
    bar: str
    met: bool | None


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rounds(count: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each work in each round; they take turns. One round first that does not count."""
    for work in works:
        work()
    return [list(column) for column in zip(*([timed(work) for work in works] for _ in range(count)), strict=True)]


def median_ratio(peer: list[float], ours: list[float]) -> float:
    """How many times as quick as the peer, round by round."""
    return statistics.median(a / b for a, b in zip(peer, ours, strict=True))


def finished(result: sage.RunResult, written: int) -> sage.RunResult:
    """The result, if it is one that may be measured."""
    if result.status is not sage.Status.SUCCEEDED or result.account.missing or result.account.written != written:
        raise SystemExit(f"E801 not measured, the run was not clean: {result.status}, {result.account}")
    return result


# --- W1 ---------------------------------------------------------------------------------------------------------------


def plus_one(x: int) -> int:
    return x + 1


def times_two(x: int) -> int:
    return x * 2


def divides_by_four(x: int) -> bool:
    return x % 4 == 0


def w1(count: int) -> Iterator[Row]:
    data = list(range(200_000))
    kept = sum(divides_by_four(times_two(plus_one(x))) for x in data)

    def plain() -> None:
        out = []
        for x in data:
            y = times_two(plus_one(x))
            if divides_by_four(y):
                out.append(y)

    def ours() -> None:
        pipeline = sage.Pipeline("w1")
        pipeline.read(Items(data)).map(plus_one).map(times_two).filter(divides_by_four).collect()
        finished(sage.run(pipeline), kept)

    def by_asyncio() -> None:
        asyncio.run(_asyncio_chain(data))

    def by_threads() -> None:
        _thread_chain(data)

    loop, mine = rounds(count, plain, ours)
    ratio = median_ratio(loop, mine)
    yield Row(
        "W1", "records/s, against a plain loop", _rate(data, mine), _rate(data, loop), ratio, ">= 0.60", ratio >= 0.6
    )
    for name, peer in (("asyncio queues by hand", by_asyncio), ("threads and queue.Queue by hand", by_threads)):
        took, mine = rounds(1, peer, ours)
        ratio = median_ratio(took, mine)
        yield Row("W1", f"records/s, against {name}", _rate(data, mine), _rate(data, took), ratio, "> 1", ratio > 1)
    memory_mb = float(_python(_W1_MEMORY))
    yield Row(
        "W1", "peak memory over the interpreter's, MB", f"{memory_mb:.0f}", "60", 60 / memory_mb, "< 60", memory_mb < 60
    )


_W1_MEMORY = """
import re
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak()
import sage
from sage.connectors import Items
p = sage.Pipeline("w1")
p.read(Items(range(200_000))).map(lambda x: x + 1).map(lambda x: x * 2).filter(lambda x: x % 4 == 0).collect()
assert sage.run(p).account.missing == 0
print(peak() - before)
"""


async def _asyncio_chain(data: list[int]) -> None:
    hops: list[asyncio.Queue[int | None]] = [asyncio.Queue(1000) for _ in range(3)]

    async def step(
        function: Callable[[int], int], source: asyncio.Queue[int | None], target: asyncio.Queue[int | None]
    ) -> None:
        while (x := await source.get()) is not None:
            await target.put(function(x))
        await target.put(None)

    async def feed() -> None:
        for x in data:
            await hops[0].put(x)
        await hops[0].put(None)

    async def drain() -> None:
        while (x := await hops[2].get()) is not None:
            divides_by_four(x)

    await asyncio.gather(feed(), step(plus_one, hops[0], hops[1]), step(times_two, hops[1], hops[2]), drain())


def _thread_chain(data: list[int]) -> None:
    hops: list[queue.Queue[int | None]] = [queue.Queue(1000) for _ in range(3)]

    def step(function: Callable[[int], int], source: queue.Queue[int | None], target: queue.Queue[int | None]) -> None:
        while (x := source.get()) is not None:
            target.put(function(x))
        target.put(None)

    def feed() -> None:
        for x in data:
            hops[0].put(x)
        hops[0].put(None)

    threads = [
        threading.Thread(target=feed),
        threading.Thread(target=step, args=(plus_one, hops[0], hops[1])),
        threading.Thread(target=step, args=(times_two, hops[1], hops[2])),
    ]
    for thread in threads:
        thread.start()
    while (x := hops[2].get()) is not None:
        divides_by_four(x)
    for thread in threads:
        thread.join()


CYCLES = 700
"""Of `busy`: about 50 microseconds."""


def busy(x: int) -> int:
    for _ in range(CYCLES):
        x = (x * 1103515245 + 12345) % 2147483648
    return x


def w1_processes(count: int) -> Iterator[Row]:
    data = list(range(40_000))
    kept = sum(divides_by_four(busy(busy(x))) for x in data)

    def ours(processes: int) -> Callable[[], object]:
        def work() -> None:
            pipeline = sage.Pipeline("w1")
            pipeline.read(Items(data)).map(busy).map(busy, name="again").filter(divides_by_four).collect()
            finished(sage.run(pipeline, processes=processes), kept)

        return work

    one, two = rounds(count, ours(1), ours(2))
    ratio = median_ratio(one, two)
    what = "records/s, CPU-bound, 2 processes against one, their start included"
    yield Row("W1", what, _rate(data, two), _rate(data, one), ratio, ">= 1.60", ratio >= 1.6)


# --- W2 ---------------------------------------------------------------------------------------------------------------


def make_text(path: Path, size_bytes: int) -> None:
    """Lines of about 12 words; some words are frequent and most are rare, as in English."""
    chance = random.Random(1)
    words = [f"w{int(chance.paretovariate(0.6))}" for _ in range(60_000)]
    with path.open("w") as file:
        written = 0
        while written < size_bytes:
            written += file.write(" ".join(chance.choices(words, k=12)) + "\n")


def words_of(line: str) -> list[str]:
    return line.split()


def itself(word: str) -> str:
    return word


def one_more(count: int, _: str) -> int:
    return count + 1


def w2(count: int, path: Path) -> Iterator[Row]:
    expected: dict[str, int] = {}

    def plain() -> None:
        counts: dict[str, int] = {}
        with path.open() as file:
            for line in file:
                for word in line.split():
                    counts[word] = counts.get(word, 0) + 1
        expected.update(counts)

    def same_functions() -> None:
        counts: dict[str, int] = {}
        with path.open() as file:
            for line in file:
                for word in words_of(line):
                    key = itself(word)
                    counts[key] = one_more(counts.get(key, 0), word)

    def ours() -> None:
        pipeline = sage.Pipeline("w2")
        pipeline.read(Text(str(path))).flat_map(str.split).key_by().count().collect()
        assert dict(finished(sage.run(pipeline), len(expected)).collected()) == expected

    def ours_by_functions() -> None:
        pipeline = sage.Pipeline("w2")
        pipeline.read(Text(str(path))).flat_map(words_of).key_by(itself).aggregate(int, one_more).collect()
        assert dict(finished(sage.run(pipeline), len(expected)).collected()) == expected

    size = path.stat().st_size / 1e6
    for what, peer, mine in (
        ("MB/s, count(), against a plain loop", plain, ours),
        ("MB/s, aggregate(), against a loop over the same functions", same_functions, ours_by_functions),
    ):
        theirs, own = rounds(count, peer, mine)
        ratio = median_ratio(theirs, own)
        yield Row(
            "W2",
            what,
            f"{size / statistics.median(own):.0f}",
            f"{size / statistics.median(theirs):.0f}",
            ratio,
            ">= 0.80",
            ratio >= 0.8,
        )


# --- W3 and W4 --------------------------------------------------------------------------------------------------------


async def wait_50_ms(x: int) -> int:
    await asyncio.sleep(0.05)
    return x


def sleep_25_ms(x: int) -> int:
    time.sleep(0.025)
    return x


def w3(count: int) -> Iterator[Row]:
    results: list[sage.RunResult] = []
    most_open: list[int] = []

    def ours() -> None:
        pipeline = sage.Pipeline("w3")
        stream = pipeline.read(Items(list(range(2000)))).map(plus_one).map(times_two).map(plus_one)
        stream.map(wait_50_ms, concurrency=64).collect()
        job = sage.start(pipeline)
        while True:
            most_open.append(job.snapshot().account.unfinished)
            try:
                results.append(finished(job.wait(0.05), 2000))
                return
            except TimeoutError:
                continue

    (took,) = rounds(count, ours)
    yield _against_ideal(
        "W3",
        "s, 2,000 awaits of 50 ms, 64 at once",
        took,
        ideal_s=2000 / 64 * 0.05,
        reachable_s=math.ceil(2000 / 64) * 0.05,
        within=1.05,
    )
    p99 = statistics.median(step.p99_s or 0 for r in results for step in r.steps if step.name == "wait_50_ms")
    yield Row("W3", "p99 in the last step, ms", f"{p99 * 1e3:.1f}", "60", 0.06 / p99, "< 60", p99 < 0.06)
    yield Row(
        "W3",
        "records in memory at most",
        str(max(most_open)),
        "few hundred",
        400 / max(most_open),
        "<= 400",
        max(most_open) <= 400,
    )


def w4(count: int) -> Iterator[Row]:
    def ours() -> None:
        pipeline = sage.Pipeline("w4")
        pipeline.read(Items(list(range(2000)))).map(sleep_25_ms, concurrency=64).collect()
        finished(sage.run(pipeline), 2000)

    def one_thread() -> None:
        for _ in range(32):
            time.sleep(0.025)

    took, bare = rounds(count, ours, one_thread)
    yield _against_ideal(
        "W4",
        "s, 2,000 sleeps of 25 ms, 64 threads",
        took,
        ideal_s=2000 / 64 * 0.025,
        reachable_s=math.ceil(2000 / 64) * 0.025,
        within=1.03,
    )
    ratio = median_ratio(bare, took)
    limit, ours_s = statistics.median(bare), statistics.median(took)
    yield Row(
        "W4",
        "s, against 32 sleeps on one idle thread (the limit here)",
        f"{ours_s:.4f}",
        f"{limit:.4f}",
        ratio,
        ">= 0.97",
        ratio >= 0.97,
    )


def _against_ideal(
    workload: str, what: str, took: list[float], *, ideal_s: float, reachable_s: float, within: float
) -> Row:
    """`reachable_s` counts whole turns of 64: no schedule can do better."""
    median = statistics.median(took)
    what += f" (whole turns: {reachable_s:.4f})"
    return Row(
        workload,
        what,
        f"{median:.4f}",
        f"{ideal_s:.4f}",
        ideal_s / median,
        f"<= {within:.2f} x",
        median <= within * ideal_s,
    )


# --- W5 ---------------------------------------------------------------------------------------------------------------

_FIRST_RECORD = """
import os, sage
from sage.connectors import Items
p = sage.Pipeline("w5")
def tell(x):
    os.write(1, b"x")
    os._exit(0)
p.read(Items(range(1000))).map(tell).collect()
sage.run(p)
"""


def w5(count: int) -> Iterator[Row]:
    def first_record() -> None:
        assert _python(_FIRST_RECORD) == "x"

    def importing() -> None:
        _python("import sage")

    def nothing() -> None:
        _python("pass")

    first, imports, start = rounds(count, first_record, importing, nothing)
    first_s = statistics.median(first)
    import_s = statistics.median(a - b for a, b in zip(imports, start, strict=True))
    yield Row("W5", "ms to the first record", f"{first_s * 1e3:.0f}", "250", 0.25 / first_s, "< 250", first_s < 0.25)
    yield Row(
        "W5",
        "ms for import sage, beyond the interpreter's start",
        f"{import_s * 1e3:.0f}",
        "100",
        0.1 / import_s,
        "< 100",
        import_s < 0.1,
    )


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def _rate(data: list[int], took: list[float]) -> str:
    return f"{len(data) / statistics.median(took):,.0f}"


def show(row: Row) -> None:
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    print(
        f"{row.workload}  {row.what:<72} {row.sage:>11}  {row.peer:>11}  {row.ratio:6.2f}  {row.bar:>9}  {verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["w1", "processes", "w2", "w3", "w4", "w5"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, median of {arguments.rounds} rounds")
    print(f"    {'':<72} {'SAGE':>11}  {'peer':>11}   ratio        bar")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "words.txt"
        makers: dict[str, Callable[[], Iterator[Row]]] = {
            "w1": lambda: w1(arguments.rounds * 2 + 1),
            "processes": lambda: w1_processes(max(3, arguments.rounds // 2)),
            "w2": lambda: w2(max(3, arguments.rounds // 2), text),
            "w3": lambda: w3(arguments.rounds),
            "w4": lambda: w4(arguments.rounds),
            "w5": lambda: w5(arguments.rounds),
        }
        for name in arguments.workloads:
            if name == "w2":
                make_text(text, WORDS_BYTES)
            for row in makers[name]():
                rows.append(row)
                show(row)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
