"""The figures of a job, from its process to the terminal of whoever watches it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sage.cli.job_report import snapshot_of
from sage.cli.live import LiveView
from sage.cli.submitted import FiguresView
from sage.errors import StorageError
from sage.flow.admission import EndpointFigures
from sage.runtime.account import Account
from sage.runtime.load import HostSnapshot
from sage.runtime.outcome import JobSnapshot, Status
from sage.runtime.placement import Placed
from sage.runtime.stats import StepSnapshot

ENDPOINT = EndpointFigures("127.0.0.1:1", 8, 7, 6, 5.5, 4, 3.5, "E701 it is away")
STEP = StepSnapshot(
    "ask", "map", 9, 8, 7, 6, 5, 4, 3, "E701 it is away", 2.5, 2, 1.5, 1.75, 1, (ENDPOINT,), 0.5, -0.25, 0.125, 2.0
)
SNAPSHOT = JobSnapshot(
    "nightly", Status.RUNNING, False, 12.5, Account(read=9, written=3), (STEP,), 0.5, 0.75, ("node 2 is lost",),
    (HostSnapshot("host 1", 2, 1, 0.5, 1 << 20, 1),), (Placed("ask", 0, "here", "it is alone", (("node 1", None),)),),
    waits_for=StorageError("E601", "no space left for the job", at="/data"),
)  # fmt: skip


def figures_of(snapshot: JobSnapshot, path: Path) -> dict[str, object]:
    FiguresView(path).show(snapshot)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_who_watches_sees_what_the_job_has_seen(tmp_path: Path) -> None:
    found = snapshot_of({"figures": figures_of(SNAPSHOT, tmp_path / "figures.json")})
    assert found == replace(SNAPSHOT, hosts=(), placed=(), waits_for=None)
    screen = io.StringIO()
    with LiveView(Console(file=screen, force_terminal=True, width=120)) as view:
        view.show(found)
    assert "127.0.0.1:1" in screen.getvalue()


def test_a_job_whose_directory_has_no_room_says_so_and_goes_on(tmp_path: Path) -> None:
    stalled = figures_of(SNAPSHOT, tmp_path / "figures.json")["stalled"]
    assert stalled == "E601 no space left for the job at /data"
