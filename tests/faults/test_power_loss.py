"""Power that fails at any moment: what was not synced is gone, and the next run is right. In full only."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ALONE, FULL, History, Workload, nemesis
from power import Call, Disk, traced

LOSSES = 25
UNSAFE = """
import os
from sage.runtime.durability.rows import Rows
os.fsync = lambda descriptor: None
prepare = Rows._prepare
def unsafe(rows):
    prepare(rows)
    rows._connection.execute("PRAGMA synchronous = OFF")
Rows._prepare = unsafe
"""

pytestmark = [
    pytest.mark.skipif(not FULL, reason="make faults: a run under strace, and many that go on"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
Script = Callable[[str], str]


def workload_in(folder: Path) -> Workload:
    folder.mkdir()
    workload = Workload(folder, records=60, call_s=0.0)
    workload.prepare()
    return workload


def calls_of(folder: Path, before: str = "") -> list[Call]:
    """What a whole run does."""
    workload_in(folder)
    return traced(before + ALONE, folder)


def after_the_loss(calls: list[Call], folder: Path) -> list[str]:
    """Everything that is wrong when a run of these `calls` is followed by one of what they left in `folder`."""
    disk = Disk()
    disk.take(calls)
    shutil.rmtree(folder)
    workload = workload_in(folder)
    for path, data in disk.left().items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(data)
    (folder / "bill").write_bytes(disk.written(str(folder / "bill")))  # who was paid does not forget it
    history = History(workload)
    history.in_flight.append(workload.most_in_flight)
    history.run_to_the_end()
    return history.violations()


@pytest.mark.parametrize("seed", range(1, 9))
def test_what_was_synced_is_enough(tmp_path: Path, seed: int) -> None:
    calls = calls_of(tmp_path / "run")
    with nemesis(seed) as chance:
        for _ in range(LOSSES):
            moment = chance.randrange(len(calls))
            assert after_the_loss(calls[:moment], tmp_path / "run") == [], calls[moment]


def test_a_run_that_syncs_nothing_is_seen(tmp_path: Path) -> None:
    calls = calls_of(tmp_path / "run", UNSAFE)
    assert any(after_the_loss(calls[: len(calls) * n // 10], tmp_path / "run") for n in range(1, 10))
