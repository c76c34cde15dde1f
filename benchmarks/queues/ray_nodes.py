"""Two nodes of Ray, with round trips of 0.5 to 5 ms between them: the producer on the one, the consumer on the other.

The network is the laboratory's (``docs/laboratory.md``), so it needs root.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from benchmarks.queues.harness import (
    MILLISECONDS,
    OURS,
    RATE,
    AtLeast,
    Lost,
    NotMeasured,
    Row,
    Times,
    Unit,
    alone,
    compare,
    turns,
)

from sage.testing.network import Link, Network, RayCluster

ROUND_TRIPS_MS = {0.5: 500, 1.0: 1_000, 2.0: 2_000, 5.0: 3_000}
"""And how many times the old way the new one has to be."""
OLD = "ray Queue"
_PERCENT = Unit("%")


def rows(rounds: int) -> Iterator[Row]:
    if find_spec("ray") is None:
        raise NotMeasured("Ray is not installed")
    if os.geteuid() != 0:
        raise NotMeasured("the network laboratory needs root")
    with Network(Link(delay_ms=0.25)) as network, RayCluster(network) as cluster, _Driver(cluster) as driver:
        lists: list[float] = []
        for round_trip_ms, times in ROUND_TRIPS_MS.items():
            for pair in (("a", "b"), ("b", "a")):
                network.link(*pair).set(delay_ms=round_trip_ms / 2)
            yield from _at(driver, round_trip_ms, times, rounds)
            lists.append(statistics.median(driver.lists[-rounds:]))
        what = "lists of 100 at 5 ms, of what they are at 0.5 ms, %"
        yield alone(what, _PERCENT, 100 * lists[-1] / lists[0], AtLeast(75))


def _at(driver: _Driver, round_trip_ms: float, times: int, rounds: int) -> Iterator[Row]:
    what = f"{round_trip_ms:g} ms"
    ways = {OURS: driver.ask_for_lists, OLD: partial(driver.ask, "old")}
    yield from compare(f"{what}: lists of 100", RATE, ways, [Times(times, OLD), AtLeast(500_000)], rounds)
    ways[OURS] = partial(driver.ask, "new")
    yield from compare(f"{what}: one by one", RATE, ways, [Times(times, OLD)], rounds)
    ways[OURS] = partial(driver.ask, "calls")
    yield from compare(f"{what}: one by one, by calls", RATE, ways, [Times(100, OLD), AtLeast(80_000)], rounds)
    asked = {"lone": ("a lone item", round_trip_ms / 2 + 3)}
    if round_trip_ms == 1.0:
        asked |= {
            "thousand": ("1,000 puts", 15),
            "ten_thousand": ("10,000 puts", 60),
            "hundred": ("100 by get_batch", 5),
        }
    for question, (name, bar) in asked.items():
        figures = turns({OURS: partial(driver.ask, question)}, rounds)[OURS]
        text = f"{what}: {name}, {MILLISECONDS.name}"
        yield alone(text, MILLISECONDS, statistics.median(figures), AtLeast(bar))


class _Driver:
    """The program on the head, which answers questions with figures."""

    def __init__(self, cluster: RayCluster) -> None:
        folder = Path(__file__).parents[2]
        command = [sys.executable, "-m", "benchmarks.queues.ray_nodes_driver"]
        pipe = subprocess.PIPE
        self.lists: list[float] = []
        self._process = cluster.popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder)

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask_for_lists(self) -> float:
        """The answer is kept in `lists`."""
        self.lists.append(self.ask("lists"))
        return self.lists[-1]

    def ask(self, question: str) -> float:
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotMeasured("the driver died")
        answer = json.loads(line)
        if isinstance(answer, str) and answer != "ready":
            raise Lost(answer)
        return answer
