"""Jobs that are killed, again and again, and end as if nothing had happened."""

import shutil
from pathlib import Path

import pytest
from harness import FULL, CrashPoints, History, Workload, killed_and_resumed, nemesis

KILLS = 5 if FULL else 3
KINDS = ("async", "threads", "ordered", "index")
KILLED = (
    [(kind, seed) for kind in KINDS for seed in range(1, 16)]
    if FULL
    else [("async", 1), ("threads", 2), ("ordered", 1), ("ordered", 2), ("index", 1)]
)
POINTS = range(1, 201) if FULL else (1, 2, 3, 5, 8, 13, 21, 34)


@pytest.mark.parametrize(("kind", "seed"), KILLED)
def test_a_job_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path, kind: str, seed: int) -> None:
    options = {name: kind == name for name in ("threads", "ordered", "index")}
    workload = Workload(tmp_path, call_s=0.005, **options)  # type: ignore[arg-type]
    with nemesis(seed) as chance:
        history = killed_and_resumed(workload, [chance.uniform(0.02, 0.3) for _ in range(KILLS)])
        assert history.violations() == []


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_crash_where_something_becomes_safe_is_survived(tmp_path: Path, point: int, before: bool) -> None:
    workload = Workload(tmp_path, records=60, call_s=0.0)
    workload.prepare()
    history = History(workload)
    history.run(hook=CrashPoints(point, before=before))
    history.run(hook=CrashPoints(point, before=before))
    if not history.ended or history.ended[-1] != "SUCCEEDED":
        history.run_to_the_end()
    assert history.violations() == []


@pytest.mark.parametrize("point", range(1, 21) if FULL else (3, 6, 12))
@pytest.mark.parametrize("threads", [True, False], ids=["threads", "async"])
def test_a_job_that_adopts_what_another_paid_may_be_killed_too(tmp_path: Path, point: int, threads: bool) -> None:
    workload = Workload(tmp_path, records=60, call_s=0.0, threads=threads, reuse=tmp_path / "shared")
    workload.prepare()
    first = History(workload)
    first.run_to_the_end()
    paid = (tmp_path / "bill").read_text()
    shutil.rmtree(tmp_path / "job")
    for output in tmp_path.glob("out.*"):
        output.unlink()
    history = History(workload)
    history.run(hook=CrashPoints(point, before=point % 2 == 0))
    history.run_to_the_end()
    assert (history.violations(), history.kills) == ([], 1)
    assert (tmp_path / "bill").read_text() == paid
