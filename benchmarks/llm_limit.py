"""The adaptive limit against every static setting: ``python benchmarks/llm_limit.py``.

The endpoint is SAGE's simulated one with the profile ``peaked`` (throughput is largest with about 18 requests in
flight, and half of that with 34), and never answers 429. In virtual time: the engine and the limiter are the
real ones, the clock is not, and nothing goes over a network: `llm_limit_http.py` measures the same over HTTP.

Each row is a median over seeds. A row's best static setting comes from a sweep in the same run. Bars: 97% of its
throughput, p99 within 1.2 times its p99, from a start of 1 and of 256; within 30 s of a change of capacity the same.
"""

from __future__ import annotations

import argparse
import random
import sys
from statistics import mean, median

from sage.llm.simulated import profile_named
from sage.llm.simulated.clients import Client, Fixed, VirtualEndpoint, adaptive

PROFILE = profile_named("peaked")
SETTINGS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 64, 128, 256)
WARM_S, MEASURED_S, GRACE_S = 30.0, 120.0, 30.0


def sizes(chance: random.Random) -> tuple[float, float]:
    return chance.uniform(100, 400), chance.uniform(60, 140)


class Figures:
    """Output tokens a second and p99 of the latency, of one run."""

    def __init__(self, client: Client, since: float) -> None:
        self.throughput = client.throughput(since, since + MEASURED_S)
        self.p99_s = client.p99(since, since + MEASURED_S)


def run(client: Client, seed: int, capacities: tuple[float, ...]) -> Client:
    """`WARM_S` and `MEASURED_S` under each of `capacities`."""
    world = VirtualEndpoint(PROFILE, seed)
    world.clients.append(client)
    for capacity in capacities:
        world.engine.set_capacity(capacity)
        world.run(world.now + GRACE_S + MEASURED_S)
    return client


def virtual(seeds: int) -> bool:
    """Print the table; True if every bar is met."""
    print(f"virtual time, simulated endpoint {PROFILE.name!r}, no refusals, medians of {seeds} seeds\n")
    print("static   capacity 0.5       capacity 1         capacity 2        (tokens/s, p99 s)")
    sweeps: dict[float, dict[int, Figures]] = {0.5: {}, 1.0: {}, 2.0: {}}
    for setting in SETTINGS:
        cells = []
        for capacity, sweep in sweeps.items():
            sweep[setting] = Figures(run(Client(Fixed(setting), sizes), 0, (capacity,)), GRACE_S)
            cells.append(f"{sweep[setting].throughput:7.0f} {sweep[setting].p99_s:8.2f}")
        print(f"{setting:6}   " + "   ".join(cells))
    best = {capacity: max(sweep, key=lambda n, of=sweep: of[n].throughput) for capacity, sweep in sweeps.items()}
    print(f"\nbest: {best}\n")
    print(
        "adaptive            tokens/s  of best   p99 s  of best   bar   median s until within 25% of the best setting"
    )
    met = True
    for name, start, capacities in (
        ("from 1", 1, (1.0,)),
        ("from 256", 256, (1.0,)),
        ("capacity halves", 8, (1.0, 0.5)),
        ("capacity doubles", 8, (1.0, 2.0)),
    ):
        began = (len(capacities) - 1) * (GRACE_S + MEASURED_S)
        runs = [run(adaptive(sizes, start), seed, capacities) for seed in range(seeds)]
        goal = best[capacities[-1]]
        reference = sweeps[capacities[-1]][goal]
        figures = [Figures(client, began + GRACE_S) for client in runs]
        throughput, p99_s = median(one.throughput for one in figures), median(one.p99_s for one in figures)
        settled_s = median(client.settled_at(goal, since=began) for client in runs)
        ratio, latency_ratio = throughput / reference.throughput, p99_s / reference.p99_s
        good = ratio >= 0.97 and latency_ratio <= 1.2 and settled_s <= GRACE_S
        met &= good
        print(
            f"{name:18} {throughput:9.0f} {ratio:8.3f} {p99_s:7.2f} {latency_ratio:8.2f}   "
            f"{'met' if good else 'NOT'}   {settled_s:.1f}"
        )
    return met


def moments(count: int) -> None:
    """Print what is worst among as many changes at different moments: from 30 s to 60 s after each."""
    print(f"{count} changes of capacity at different moments, from {GRACE_S:g} s to {2 * GRACE_S:g} s after each\n")
    for capacity, goal in ((0.5, 9), (2.0, 36)):
        best = changed(Client(Fixed(goal), sizes), 0, capacity).throughput(GRACE_S, 3 * GRACE_S)
        ratios, settled = [], []
        for number in range(count):
            at = 20 + 30 * number / count
            client = changed(adaptive(sizes), 100 + number, capacity, at)
            ratios.append(client.throughput(at + GRACE_S, at + 2 * GRACE_S) / best)
            settled.append(client.settled_at(goal, at))
        late = sorted(f"{seconds:.0f}" for seconds in settled if seconds > GRACE_S)
        print(
            f"capacity {capacity:<4} of static {goal}: mean {mean(ratios):.3f}, worst {min(ratios):.2f};"
            f" limit within 25% of it after a median of {median(settled):.1f} s, after more than 30 s: {late}"
        )


def changed(client: Client, seed: int, capacity: float, at: float = 10.0) -> Client:
    world = VirtualEndpoint(PROFILE, seed)
    world.clients.append(client)
    world.run(at)
    world.engine.set_capacity(capacity)
    world.run(at + 3 * GRACE_S)
    return client


def main() -> int:
    parser = argparse.ArgumentParser(description="The adaptive limit against every static setting.")
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--moments", type=int, metavar="N", help="instead: N changes of capacity at different moments")
    arguments = parser.parse_args()
    if arguments.moments:
        moments(arguments.moments)
        return 0
    return 0 if virtual(arguments.seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
