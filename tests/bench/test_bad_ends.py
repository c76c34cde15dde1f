"""Experiments that something befalls: what was measured stays, and the rest can be measured later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sage.bench import EXPERIMENTS, Case, Options, Run, run_experiment
from sage.bench.engine import EngineCluster
from sage.bench.virtual import VirtualCluster
from sage.errors import SageError, StorageError
from sage.llm.simulated import SimulatedEndpoint

SCALING = EXPERIMENTS["scaling"]


def test_an_endpoint_that_dies_ends_the_experiment_and_not_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([(), ("reset",), ()])
    monkeypatch.setattr(
        "sage.bench.engine.SimulatedEndpoint",
        lambda profile, seed: SimulatedEndpoint("tiny", seed=seed, faults=next(asked)),
    )
    measure = partial(
        run_experiment,
        SCALING,
        EngineCluster("local"),
        Options(tasks=6, repeat=2, nodes=(1,), pipeline="rag"),
        tmp_path,
    )
    with pytest.raises(SageError) as raised:
        measure()
    assert raised.value.code.startswith("E")
    kept = tmp_path / "scaling" / "runs"
    assert [path.name for path in kept.glob("*.json")] == ["rag-rag-1-0.json"]
    report = measure(resume=True)
    assert len(report.figures["rag 1"]["p99_s"].values) == 2
    assert next(asked, None) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "sage-test", folder], check=False)
    if made.returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_fills_up_is_told_and_room_is_enough_to_go_on(small_disk: Path) -> None:
    options = Options(tasks=400, repeat=8, nodes=(1, 2), pipeline="compute")
    with pytest.raises(StorageError, match=r"E681 .*--resume"):
        run_experiment(SCALING, VirtualCluster(), options, small_disk)
    kept = len(list((small_disk / "scaling" / "runs").glob("*.json")))
    assert 0 < kept < 16
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    counted = Counting()
    report = run_experiment(SCALING, counted, options, small_disk, resume=True)
    assert counted.runs == 16 - kept
    assert {len(figures["p99_s"].values) for figures in report.figures.values()} == {8}


class Counting(VirtualCluster):
    """Knows how many cases it ran."""

    runs = 0

    def run(self, case: Case, seed: int) -> Run:
        self.runs += 1
        return super().run(case, seed)
