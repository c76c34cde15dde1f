"""``parallelism="adaptive"`` beside fixed numbers of threads: ``python -m benchmarks.scheduling_replicas``.

A function that waits 20 ms, and one that computes for about a millisecond. The bars: 95% of the best fixed setting for
both, which for the second is one thread. Each setting is run in turns, and the median of its runs counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import sage
from sage.connectors import Items

ROUNDS = 3
BAR = 0.95
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "one": {}, "32 threads": {"concurrency": 32}, "64 threads": {"concurrency": 64},
    "adaptive": {"parallelism": "adaptive"},
}  # fmt: skip


def waits(n: int) -> int:
    time.sleep(0.02)
    return n


def computes(n: int) -> int:
    return sum(range(40_000)) + n


def rate(function: Callable[[int], int], records: int, options: Mapping[str, Any]) -> float:
    pipeline = sage.Pipeline("replicas")
    pipeline.read(Items(range(records))).map(function, **options).collect()
    return records / sage.run(pipeline).elapsed_s


def main() -> None:
    for function, records, best_of in (
        (waits, 8000, ("32 threads", "64 threads")),
        (computes, 1000, ("one",)),
    ):
        chosen = {name: options for name, options in SETTINGS.items() if name in (*best_of, "adaptive")}
        rates: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(ROUNDS):
            for name, options in chosen.items():
                rates[name].append(rate(function, records, options))
        found = {name: median(some) for name, some in rates.items()}
        best = max(found[name] for name in best_of)
        for name, per_s in found.items():
            missed = "   MISSED" if name == "adaptive" and per_s < BAR * best else ""
            print(f"{function.__name__:<9}{name:<11}{per_s:9.1f} records/s, {per_s / best:6.1%} of the best{missed}")


if __name__ == "__main__":
    main()
