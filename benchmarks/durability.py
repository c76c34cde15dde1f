"""What a job directory costs, and how long it takes to go on.

W1      3,000,000 integers through map(+1), map(*2), filter into a file: with a job directory / without it      <= 1.10
calls   5,120 calls of 50 ms, 64 at once, every one journalled: with a job directory / without it               <= 1.02
resume  100,000 records, cut off in their middle: seconds until the first new call                              <= 3

In the first second all 64 calls begin and end together, and wait for a commit together; then they no longer do.
Of W1 the processor time counts, of the calls the time by the clock; both are printed, as medians of rounds in turn.

    python benchmarks/durability.py
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import sage
from sage.connectors import Items, JsonLines

ROUNDS = 5


def _w1(folder: Path) -> sage.Pipeline:
    pipeline = sage.Pipeline("w1")
    stream = (
        pipeline.read(Items(range(3_000_000))).map(lambda n: n + 1).map(lambda n: n * 2).filter(lambda n: n % 2 == 0)
    )
    stream.write(JsonLines(folder / "out.jsonl"))
    return pipeline


async def _call(n: int) -> dict[str, Any]:
    await asyncio.sleep(0.05)
    return {"n": n, "answer": "x" * 500}


def _calls(folder: Path) -> sage.Pipeline:
    pipeline = sage.Pipeline("calls")
    pipeline.read(Items(range(5120))).map(_call, durable=True, concurrency=64).write(JsonLines(folder / "out.jsonl"))
    return pipeline


def _took(make: Any, *, durable: bool) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        busy = time.process_time()
        result = sage.run(make(folder), job_dir=folder / "job" if durable else None)
        assert result.account.missing == 0
        return result.elapsed_s, time.process_time() - busy


def _compared(name: str, make: Any, most: float) -> None:
    """Without and with, one after the other in turn; the medians of both ratios."""
    pairs = [(_took(make, durable=False), _took(make, durable=True)) for _ in range(ROUNDS)]
    for what, index in (("by the clock", 0), ("of the processor", 1)):
        without, with_it = (statistics.median(one[index] for one in some) for some in zip(*pairs, strict=True))
        ratio = statistics.median(after[index] / before[index] for before, after in pairs)
        print(f"{name:<8} {what:<17} without {without:.3f} s, with {with_it:.3f} s, ratio {ratio:.3f} (at most {most})")


async def _first_call(n: int) -> dict[str, Any]:
    if not FIRST:
        FIRST.append(time.perf_counter())
    return {"n": n, "answer": "x" * 200}


FIRST: list[float] = []
"""When the first call of a run was made. The operator is copied, this is not."""


def _resumed() -> float:
    """Seconds from the start of the run that goes on to its first new call."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)

        def start() -> sage.Job:
            made = sage.Pipeline("resume")
            stream = made.read(Items(range(100_000))).map(_first_call, durable=True, concurrency=256)
            stream.write(JsonLines(folder / "out.jsonl"))
            return sage.start(made, sage.RunOptions(job_dir=folder / "job"))

        job = start()
        while job.snapshot().account.written < 50_000:
            time.sleep(0.01)
        job.abort()
        job.wait()
        FIRST.clear()
        started = time.perf_counter()
        assert start().wait().error is None
        assert len((folder / "out.jsonl").read_bytes().splitlines()) == 100_000
        return FIRST[0] - started


def main() -> None:
    _compared("W1", _w1, 1.10)
    _compared("calls", _calls, 1.02)
    print(f"resume   first output after {_resumed():.2f} s (at most 3)")


if __name__ == "__main__":
    main()
