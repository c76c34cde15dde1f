"""A disk that fails: an fsync that returns EIO ends the run at once, and the next run is right."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ALONE, FULL, History, Workload

CODES = {"E602", "E556", "E611", "E552", "SUCCEEDED"}
"""The journal, an output or the folder; or the fsync that fails comes too late to matter."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
@pytest.mark.parametrize("point", range(1, 21) if FULL else [12])
def test_an_fsync_that_fails_is_never_tried_again(tmp_path: Path, point: int, call: str) -> None:
    workload = Workload(tmp_path, records=60, call_s=0.0)
    workload.prepare()
    inject = [f"--trace={call}", f"--inject={call}:error=EIO:when={point}+"]
    command = ["strace", "-f", "-o", "/dev/null", *inject, sys.executable, "-c", ALONE]
    told = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1]) in CODES
    history = History(workload)
    history.run_to_the_end()
    assert [one for one in history.violations() if not one.startswith("BILL")] == []
