"""Jobs one after the other in one process, each under two faults at once: all are right, and nothing grows. In full
only; more ``ROUNDS`` make it a test of hours."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from harness import FULL, History, Workload, nemesis

from sage.processes import descendants, memory_bytes

ROUNDS = 40
WARM = ROUNDS // 4
GROWTH_BYTES = 16 * 1024 * 1024
LOCKED_S = 0.2
pytestmark = [
    pytest.mark.skipif(not FULL, reason="make faults: a minute and more"),
    pytest.mark.timeout(1800),
]
Fault = Callable[[History, Random], None]


def driver_killed(history: History, chance: Random) -> None:
    """Before this process goes on with the job."""
    history.run(kill_at_bill=chance.randrange(5, 30))


def host_killed(history: History, chance: Random) -> None:
    def kill() -> None:
        wanted = history.billed() + chance.randrange(5, 30)
        while history.billed() < min(wanted, history.workload.records):
            time.sleep(0.001)
        for pid in descendants(os.getpid())[:1]:
            os.kill(pid, signal.SIGKILL)

    history.in_flight.append(history.workload.most_in_flight)
    threading.Thread(target=kill).start()


def output_locked(history: History, chance: Random) -> None:
    def lock() -> None:
        time.sleep(chance.uniform(0.0, 0.3))
        with closing(sqlite3.connect(history.workload.folder / "out.db", timeout=60)) as database:
            database.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED_S)

    threading.Thread(target=lock).start()


FAULTS: tuple[Fault, ...] = (driver_killed, host_killed, output_locked)


def test_nothing_grows(tmp_path: Path) -> None:
    used: list[tuple[int, int]] = []
    with nemesis(1) as chance:
        for number in range(ROUNDS):
            one_round(tmp_path / f"{number}", chance)
            used.append((len(os.listdir("/proc/self/fd")), memory_bytes([os.getpid()])))
    descriptors, memory = zip(*used[WARM:], strict=True)
    print(
        f"{ROUNDS} jobs: {descriptors[0]} to {descriptors[-1]} descriptors, {memory[0]:,} to {memory[-1]:,} bytes later"
    )
    assert descriptors[-1] <= descriptors[0]
    assert memory[-1] < memory[0] + GROWTH_BYTES


def one_round(folder: Path, chance: Random) -> None:
    folder.mkdir()
    workload = Workload(folder, records=100, call_s=0.005, threads=True, processes=3)
    workload.prepare()
    history = History(workload)
    before = threading.active_count()
    for fault in chance.sample(FAULTS, 2):
        fault(history, chance)
    result = workload.run()
    history.ended.append(result.status.value if result.error is None else str(result.error))
    while threading.active_count() > before:
        time.sleep(0.001)
    assert history.violations() == []
