"""What a decision of each scheduler costs: ``python -m benchmarks.scheduling``. No run, no clock but this machine's.

The bars: 50 us with 16 nodes, 1 ms with 1,000. Best of several rounds, because whatever else runs only adds to it.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from sage.jobs.admission import Capacity, Needs, Running, Waiting, admit
from sage.scheduling import Cluster, Node, Replica, Task, Work, names, scheduler_named

BARS_US = {16: 50.0, 1000: 1000.0}
ROUNDS = 7


def cost_us(decide: Callable[[], object], count: int) -> float:
    return min(timeit.repeat(decide, number=count, repeat=ROUNDS)) / count * 1e6


def decisions(name: str, nodes: int) -> dict[str, float]:
    """Of each kind, with all candidates different."""
    scheduler = scheduler_named(name)
    count = max(5, 4000 // nodes)
    cluster = Cluster(tuple(Node(f"n{i}", 8, i % 8, 0.01 * i, 1 + i % 3) for i in range(nodes)), placed=nodes)
    replicas = [Replica(f"n{i}", 8, i % 9, 0, 0.01 * i, 1 + i % 3, i % 5) for i in range(nodes)]
    waiting = [Work(0.025, 0.1 * i, i % 3, f"job{i}", 0.3 * i) for i in range(nodes)]
    return {
        "place": cost_us(lambda: scheduler.place(Task("t"), cluster), count),
        "choose": cost_us(lambda: scheduler.choose(Work(0.025), replicas, 1.0), count),
        "order": cost_us(lambda: scheduler.order(waiting), count),
    }


def admission_us(jobs: int) -> float:
    waiting = [Waiting(f"w{i}", i % 10, 0.1 * i, user=f"u{i % 3}", needs=Needs(1.0)) for i in range(jobs)]
    running = [Running(f"r{i}", needs=Needs(1.0)) for i in range(8)]
    return cost_us(lambda: admit(waiting, running, Capacity(16, 8, 12.0)), max(1, 1000 // jobs))


def main() -> None:
    print(f"{'scheduler':<20}{'nodes':>7}{'place us':>11}{'choose us':>11}{'order us':>11}   bar us")
    for nodes, bar_us in BARS_US.items():
        for name in names():
            found = decisions(name, nodes)
            missed = [what for what, us in found.items() if us > bar_us]
            figures = "".join(f"{us:>11.1f}" for us in found.values())
            print(f"{name:<20}{nodes:>7}{figures}{bar_us:>9.0f}" + (f"  MISSED: {', '.join(missed)}" if missed else ""))
    for jobs in (16, 1000):
        print(f"admission of jobs, {jobs} that wait: {admission_us(jobs):.0f} us")


if __name__ == "__main__":
    main()
