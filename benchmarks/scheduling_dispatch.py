"""Each policy in real runs, on processes: ``python -m benchmarks.scheduling_dispatch [POLICY...]``, 5 s a policy.

Three processes work at speeds 1:2:4, emulated by sleeping, as many records wait as anybody wants: how many a second,
of the sum of the speeds. Then four equal ones: how equal their shares are (1 - sigma / mu). The bars: `adaptive` 95% of
the sum and 0.98; `round_robin` is at 3/7 by its law. Then what the way costs where there is nothing to decide: records
of functions that do next to nothing, a second, over two processes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

import sage
from sage.connectors import Items
from sage.scheduling import names
from sage.simulation import balance_of

SLOWEST_S = 0.08
RECORDS = 210
QUICK = 1_000_000
BAR_OF_SUM, BAR_BALANCE = 0.95, 0.98


class Sleeping(sage.Operator):
    """Takes as long as the speed of its instance says, and says when it was done."""

    def __init__(self, speeds: Sequence[int]) -> None:
        self.speeds = speeds

    def open(self, context: sage.OperatorContext) -> None:
        self.instance = context.instance

    def __call__(self, record: int) -> tuple[int, float]:
        time.sleep(SLOWEST_S / self.speeds[self.instance])
        return self.instance, time.monotonic()


def run(policy: str, speeds: Sequence[int]) -> list[tuple[int, float]]:
    """Who did each record, and when."""
    pipeline = sage.Pipeline("dispatch")
    pipeline.read(Items(range(RECORDS))).map(Sleeping(speeds), name="work").collect()
    done: list[tuple[int, float]] = sage.run(pipeline, processes=len(speeds), scheduler=policy).collected()
    return sorted(done, key=lambda one: one[1])


def of_sum(policy: str, speeds: Sequence[int] = (1, 2, 4)) -> float:
    """Records a second between the first and the last tenth, as a part of what all together can do."""
    moments = [at for _, at in run(policy, speeds)]
    first, last = RECORDS // 10, RECORDS - RECORDS // 10
    return (last - first) / (moments[last] - moments[first]) * SLOWEST_S / sum(speeds)


def balance(policy: str, hosts: int = 4) -> float:
    counted = Counter(instance for instance, _ in run(policy, (4,) * hosts))
    return balance_of(tuple(counted[instance] for instance in range(hosts)))


def is_negative(record: int) -> bool:
    return record < 0


def quick_per_s(policy: str) -> float:
    pipeline = sage.Pipeline("quick")
    pipeline.read(Items(range(QUICK))).filter(is_negative).collect()
    result = sage.run(pipeline, processes=2, scheduler=policy)
    return QUICK / result.elapsed_s


def main(policies: Sequence[str]) -> None:
    for policy in policies or names():
        share, even = of_sum(policy), balance(policy)
        missed = policy == "adaptive" and (share < BAR_OF_SUM or even < BAR_BALANCE)
        print(
            f"{policy:<20}{share:6.1%} of the sum of speeds 1:2:4, balance of four equal ones {even:.3f},"
            f" {quick_per_s(policy):,.0f} quick records/s" + ("   MISSED" if missed else ""),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
