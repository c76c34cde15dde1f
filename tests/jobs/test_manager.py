"""Jobs from their submission to their end, with real processes."""

import os
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clocks import HandClock
from jobs.managers import ENDLESS, HEAD, QUICK, RELEASED, STUCK, Managed
from sage.errors import UsageError
from sage.jobs.admission import Capacity
from sage.jobs.job import Job, JobSpec
from sage.jobs.manager import Manager
from sage.jobs.states import Command, State
from sage.jobs.store import Store

Wait = Callable[[Callable[[], object]], None]


def states(found: dict[str, Any]) -> list[str]:
    return [change["state"] for change in found["changes"]]


def test_a_job_from_beginning_to_end(managed: Managed, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(QUICK, name="first")
    found = managed.end_of(job)
    assert (found["state"], found["name"], found["run"]) == ("SUCCEEDED", "first", 1)
    assert states(found) == ["STARTING", "RUNNING", "SUCCEEDED"]
    assert (found["read"], found["written"], found["process"]) == (10, 10, None)
    assert found["results"][0]["account"]["written"] == 10
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 10
    assert "quick: SUCCEEDED" in managed.log(job)
    assert [one["id"] for one in managed.client.list()] == [job]
    assert managed.client.delete(job)["id"] == job
    assert managed.client.list() == []
    assert managed.folder.ids() == []


def test_everything_of_a_job_is_its_users_alone(managed: Managed) -> None:
    managed.start()
    managed.end_of(managed.submit(QUICK))
    for folder, _, files in os.walk(managed.folder.path):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert {name for name in files if os.stat(os.path.join(folder, name)).st_mode & 0o077} == set()


def test_figures_while_it_runs(managed: Managed, wait_until: Wait) -> None:
    managed.start()
    job = managed.submit(ENDLESS)
    wait_until((managed.where / "working").exists)
    wait_until(lambda: (managed.client.show(job)["read"] or 0) > 20)
    found = managed.client.show(job)
    assert found["state"] == "RUNNING"
    assert found["figures"]["bottleneck"] == "slowly"
    assert found["silent_s"] < 30
    assert managed.client.list()[0]["read"] > 20
    managed.client.stop(job)
    managed.end_of(job)


def test_stop_is_clean_and_resume_begins_again(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(ENDLESS)
    wait_until((tmp_path / "working").exists)
    assert managed.client.stop(job)["state"] == "STOPPING"
    found = managed.end_of(job)
    assert (found["state"], found["results"][0]["account"]["unfinished"]) == ("CANCELLED", 0)
    assert (tmp_path / "out.jsonl.partial").exists()
    assert managed.client.stop(job)["state"] == "CANCELLED"  # again: nothing happens
    (tmp_path / "working").unlink()
    assert managed.client.resume(job)["state"] == "PENDING"
    wait_until((tmp_path / "working").exists)
    managed.client.stop(job)
    found = managed.end_of(job)
    assert (found["state"], found["run"]) == ("CANCELLED", 2)
    stopped = ["STARTING", "RUNNING", "STOPPING", "CANCELLED"]
    assert states(found) == [*stopped, "PENDING", *stopped]
    assert len(set(managed.lines("began"))) == 2


def test_stop_twice_ends_what_does_not_return(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(STUCK)
    wait_until((tmp_path / "working").exists)
    managed.client.stop(job)
    wait_until(lambda: "stopping" in managed.log(job))
    managed.client.stop(job)
    found = managed.end_of(job)
    assert found["state"] == "CANCELLED"
    assert managed.processes() == []


def test_stop_before_the_file_has_a_pipeline(managed: Managed, wait_until: Wait) -> None:
    managed.start()
    job = managed.submit(HEAD + "until('never')")
    wait_until(lambda: managed.lines("began"))
    managed.client.stop(job)
    assert managed.end_of(job)["state"] == "CANCELLED"


def test_stop_of_one_that_waits(managed: Managed) -> None:
    managed.start()
    job = managed.submit(QUICK, start_delay_s=3600)
    found = managed.client.show(job)
    assert (found["state"], found["position"]) == ("PENDING", 1)
    assert "at the earliest" in found["reason"]
    assert managed.client.stop(job)["state"] == "CANCELLED"
    assert managed.client.show(job)["run"] == 0
    assert managed.client.resume(job)["state"] in ("PENDING", "STARTING")
    assert managed.end_of(job)["state"] == "SUCCEEDED"  # resumed, it does not wait again


def test_the_queue_is_by_priority_and_bounded(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start("--max-jobs", "1")
    first = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    later = managed.submit(RELEASED, priority=9)
    sooner = managed.submit(RELEASED, priority=0)
    places = {one["id"]: (one["position"], one["reason"]) for one in managed.client.list() if one["position"]}
    assert places == {sooner: (1, "all 1 places are taken"), later: (2, "all 1 places are taken")}
    (tmp_path / "go").touch()
    ends = [managed.end_of(job) for job in (first, sooner, later)]
    assert {found["state"] for found in ends} == {"SUCCEEDED"}
    began = [next(c["at"] for c in found["changes"] if c["state"] == "STARTING") for found in ends]
    assert began == sorted(began)


def test_a_start_delay_is_waited_for(managed: Managed) -> None:
    managed.start()
    job = managed.submit(QUICK, start_delay_s=0.4)
    found = managed.end_of(job)
    assert found["state"] == "SUCCEEDED"
    assert found["changes"][0]["at"] - found["submitted_at"] >= 0.39


def test_files_that_cannot_run(managed: Managed) -> None:
    managed.start()
    for source, code in (
        ("import nothing_of_this_name\n", "E250"),
        ("pipeline = (\n", "E251"),
        ("x = 1\n", "E125"),
        (HEAD + "raise SystemExit(3)\n", "E822 the process of the job ended by itself with exit code 3"),
        (HEAD + "raise SystemExit(0)\n", "E822 the file ended before its pipelines had"),
        (HEAD + "os.kill(os.getpid(), signal.SIGKILL)\n", "E822 the process of the job was killed by SIGKILL"),
        (HEAD + "os._exit(0)\n", "E822 the file ended before its pipelines had"),
        (HEAD + "os.abort()\n", "E822 the process of the job was killed by SIGABRT"),
    ):
        found = managed.end_of(managed.submit(source))
        assert found["state"] == "FAILED", source
        assert found["reason"].startswith(code), source
    found = managed.end_of(managed.submit(QUICK, scheduler="nope"))  # its file could have registered it
    assert found["state"] == "FAILED"
    assert "E246 there is no such scheduler: got nope" in managed.log(found["id"])


def test_a_job_with_dead_letters(managed: Managed) -> None:
    managed.start()
    source = QUICK.replace('{"n": n}', '{"n": 1 / (n - 3)}')
    found = managed.end_of(managed.submit(source))
    assert (found["state"], found["dead_lettered"]) == ("SUCCEEDED_WITH_DEAD_LETTERS", 1)
    assert Path(found["results"][0]["dead_letters"]) == Path(found["folder"], "quick.dead.jsonl")
    found = managed.end_of(managed.submit(source, max_dead_letters=0))
    assert found["state"] == "FAILED"
    assert found["reason"].startswith("E652 ")


def test_a_file_that_goes_on_after_a_run_that_failed(managed: Managed) -> None:
    managed.start()
    source = QUICK.replace('{"n": n}', '{"n": 1 / 0}') + "try:\n    sage.run(pipeline, max_dead_letters=0)\n"
    found = managed.end_of(managed.submit(source + "except sage.SageError:\n    pass\n"))
    assert (found["state"], found["reason"][:5]) == ("FAILED", "E652 ")


def test_a_file_that_was_changed_is_not_run(managed: Managed) -> None:
    managed.start()
    job = managed.submit(QUICK, start_delay_s=3600)
    (managed.where / "flow.py").write_text(QUICK + "# changed\n")
    managed.client.stop(job)
    managed.client.resume(job)
    found = managed.end_of(job)
    assert found["reason"].startswith("E253 the file was changed after the job was submitted")


def test_an_interpreter_that_there_is_not(managed: Managed) -> None:
    managed.start()
    found = managed.end_of(managed.submit(QUICK, python="/no/python"))
    assert found["state"] == "FAILED"
    assert found["reason"].startswith("E821 the job cannot be started")
    assert "/no/python" in found["reason"]


def test_what_a_job_leaves_running_ends_with_it(managed: Managed) -> None:
    managed.start()
    source = QUICK + "import subprocess\nsubprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
    assert managed.end_of(managed.submit(source))["state"] == "SUCCEEDED"
    assert managed.processes() == []


def test_several_processes(managed: Managed) -> None:
    managed.start()
    found = managed.end_of(managed.submit(QUICK, processes=2))
    assert (found["state"], found["written"]) == ("SUCCEEDED", 10)


def test_refusals_in_each_state(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    with pytest.raises(UsageError, match=f"E144 the job cannot delete: it runs at job {job}: got RUNNING. Try: sage"):
        managed.client.delete(job)
    with pytest.raises(UsageError, match="E144 the job cannot resume: it runs"):
        managed.client.resume(job)
    (tmp_path / "go").touch()
    managed.end_of(job)
    with pytest.raises(UsageError, match="E144 the job cannot resume: it has finished"):
        managed.client.resume(job)
    managed.client.delete(job)
    for ask in (managed.client.show, managed.client.stop, managed.client.resume, managed.client.delete):
        with pytest.raises(UsageError, match=f"E143 there is no such job: got {job}"):
            ask(job)


def test_submitting_again_under_the_same_id_gives_the_same_job(managed: Managed) -> None:
    managed.start()
    job = managed.submit(QUICK, id="0123abcd", start_delay_s=3600)
    assert managed.submit(QUICK, id="0123abcd", start_delay_s=3600) == job == "0123abcd"
    assert len(managed.client.list()) == 1
    with pytest.raises(UsageError, match="E145 another job has this id"):
        managed.submit(QUICK, id="0123abcd")


def test_killed_by_somebody_else(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    """The process of the job is a failure; its supervisor, too, is a loss that is told. It can run again."""
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    os.kill(int(managed.lines("began")[-1]), signal.SIGKILL)
    assert managed.end_of(job)["reason"].startswith("E822 the process of the job was killed by SIGKILL")
    (tmp_path / "working").unlink()
    managed.client.resume(job)
    wait_until((tmp_path / "working").exists)
    managed.supervisor(job).send(signal.SIGKILL)
    found = managed.end_of(job)
    assert (found["state"], found["run"]) == ("LOST", 2)
    assert found["reason"].startswith("E820 ")
    wait_until(lambda: managed.processes() == [])
    (tmp_path / "go").touch()
    wait_until(lambda: not managed.folder.job(job).is_locked())
    managed.client.resume(job)
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def test_what_libraries_print_is_not_taken_for_a_message(
    managed: Managed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'import sys\nif "sage.jobs.supervisor" in sys.orig_argv:\n    print("hello", flush=True)\n'
    (tmp_path / "sitecustomize.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)  # of what the manager starts too
    managed.start()
    assert managed.end_of(managed.submit(QUICK))["state"] == "SUCCEEDED"


def test_a_forecast_follows_the_clock_and_what_changes(managed: Managed) -> None:
    managed.folder.make()
    store, clock, spec = Store(managed.folder.database), HandClock(), JobSpec(str(Path(__file__)), str(managed.where))
    started = Job("00000001", spec, 0.0).changed(State.STARTING, 0.0)
    store.put(started.changed(State.RUNNING, 0.0).changed(State.SUCCEEDED, 10.0))
    store.put(replace(started, id="00000002"))
    store.put(Job("00000003", spec, 0.0))
    manager = Manager(managed.folder, store, capacity=Capacity(1), say=lambda text: None, clock=clock)
    assert manager.forecast() == {"00000003": 10.0}
    clock.now_s = 4.0
    assert manager.forecast() == {"00000003": 6.0}
    manager.command(Command.DELETE, "00000001")  # now nobody knows how long such a job takes
    assert manager.forecast() == {}
    manager.close()
    store.close()


def test_too_many_jobs(managed: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.jobs.manager.MOST_PENDING", 2)
    managed.folder.make()
    store = Store(managed.folder.database)
    manager = Manager(managed.folder, store, capacity=Capacity(1), say=lambda text: None)
    spec = JobSpec(str(Path(__file__)), str(managed.where))
    jobs = [manager.submit(spec).id for _ in range(2)]
    with pytest.raises(UsageError, match="E148 too many jobs wait: got 2, expected at most 2"):
        manager.submit(spec)
    assert sorted(managed.folder.ids()) == sorted(jobs)
    manager.close()
    store.close()
