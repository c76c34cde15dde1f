"""The manager killed at any moment: what runs goes on and is found again, what is lost is told, nothing runs twice."""

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cli.command_line import environment
from jobs.managers import ENDLESS, HEAD, QUICK, RELEASED, Managed
from patience import DEADLINE_S
from sage.errors import StorageError, UsageError

Wait = Callable[[Callable[[], object]], None]
DYING = str(Path(__file__).with_name("dying.py"))
ALONE = """
import fcntl
alone = open("alone", "a")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    Path("two at once").touch()
"""
"""A file that says so if it is run twice at once."""


@pytest.fixture(autouse=True)
def _never_twice_at_once(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "two at once").exists()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", ["PENDING", "STARTING", "RUNNING", "SUCCEEDED"])
def test_killed_at_each_change_of_a_job_that_ends_well(
    managed: Managed, wait_until: Wait, change: str, when: str
) -> None:
    number = ["PENDING", "STARTING", "RUNNING", "SUCCEEDED"].index(change) + 1
    managed.start(program=(DYING, str(number), when))
    with suppress(UsageError):  # it may be killed before it answers
        managed.submit(HEAD + ALONE + QUICK.removeprefix(HEAD), id="0123abcd")
    assert managed.died()
    managed.start()
    managed.submit(HEAD + ALONE + QUICK.removeprefix(HEAD), id="0123abcd")  # whoever got no answer asks again
    found = managed.end_of("0123abcd")
    assert (found["state"], found["run"]) == ("SUCCEEDED", 1)
    assert len(managed.lines("began")) == 1
    assert managed.processes() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", ["STOPPING", "CANCELLED"])
def test_killed_while_a_job_is_stopped(
    managed: Managed, wait_until: Wait, tmp_path: Path, change: str, when: str
) -> None:
    number = ["PENDING", "STARTING", "RUNNING", "STOPPING", "CANCELLED"].index(change) + 1
    managed.start(program=(DYING, str(number), when))
    job = managed.submit(ENDLESS)
    wait_until((tmp_path / "working").exists)
    with suppress(UsageError):
        managed.client.stop(job)
    assert managed.died()
    managed.start()
    if (change, when) == ("STOPPING", "before"):
        assert managed.client.show(job)["state"] == "RUNNING"  # the request was never stored
        managed.client.stop(job)
    found = managed.end_of(job)
    assert (found["state"], found["run"]) == ("CANCELLED", 1)
    assert found["results"][0]["account"]["unfinished"] == 0  # stopped cleanly, however often it was told


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_job_is_resumed(managed: Managed, when: str) -> None:
    managed.start(program=(DYING, "3", when))
    job = managed.submit(QUICK, start_delay_s=3600)
    managed.client.stop(job)
    with pytest.raises(UsageError, match="E140 "):
        managed.client.resume(job)
    assert managed.died()
    managed.start()
    if when == "before":
        assert managed.client.show(job)["state"] == "CANCELLED"
        managed.client.resume(job)
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def test_jobs_outlive_managers(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start("--max-jobs", "1")
    running = managed.submit(RELEASED)
    waiting = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    process = managed.client.show(running)["process"]
    managed.kill()
    with pytest.raises(UsageError, match=r"E140 no job manager runs at .*Try: sage jobmanager start"):
        managed.client.list()
    managed.start("--max-jobs", "1")
    found = managed.client.show(running)
    assert (found["state"], found["process"], found["run"]) == ("RUNNING", process, 1)
    assert managed.client.show(waiting)["position"] == 1
    (tmp_path / "go").touch()
    assert [managed.end_of(job)["state"] for job in (running, waiting)] == ["SUCCEEDED", "SUCCEEDED"]
    assert len(managed.lines("began")) == 2


def test_what_ended_while_nobody_looked(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    supervisor = managed.supervisor(job)
    managed.kill()
    (tmp_path / "go").touch()
    wait_until(lambda: not supervisor.is_alive)
    managed.start()
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def test_what_was_killed_while_nobody_looked_is_lost(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    supervisor = managed.supervisor(job)
    managed.kill()
    supervisor.send(9)
    wait_until(lambda: managed.processes() == [])
    managed.start()
    found = managed.end_of(job)
    assert found["state"] == "LOST"
    assert found["reason"].startswith("E820 the processes of the job are gone")


def test_the_number_of_a_dead_process_that_another_has_now(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    """The manager finds a process with the right number and another beginning: it leaves it alone."""
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    supervisor = managed.supervisor(job)
    other = subprocess.Popen(["sleep", "3600"])
    found = type(supervisor)(other.pid, supervisor.started, supervisor.boot)
    assert not found.is_alive
    assert not found.send(9)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_supervisor_started_twice_begins_a_run_once(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    again = [sys.executable, "-m", "sage.jobs.supervisor", str(managed.folder.job(job).path), "1"]
    told = subprocess.run(again, capture_output=True, text=True, check=True)
    assert f'"pid": {managed.supervisor(job).pid}' in told.stdout
    another = subprocess.run([*again[:-1], "2"], capture_output=True, text=True, check=True)
    assert another.stdout == '{"busy": true}\n'
    (tmp_path / "go").touch()
    managed.end_of(job)
    told = subprocess.run(again, capture_output=True, text=True, check=True)
    assert told.stdout == '{"begun": true}\n'
    assert len(managed.lines("began")) == 1


def test_a_run_that_was_begun_by_nobody_that_is_left(managed: Managed) -> None:
    """As when a supervisor was killed before it could say anything."""
    managed.start()
    job = managed.submit(QUICK, start_delay_s=3600)
    managed.client.stop(job)
    managed.folder.job(job).run(1).path.mkdir()
    managed.client.resume(job)  # resumed, it does not wait again
    assert managed.end_of(job)["state"] == "LOST"
    managed.client.resume(job)
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def test_a_run_waits_for_the_processes_of_the_last_one(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start("--max-jobs", "1")
    managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    job = managed.submit(QUICK)
    with open(managed.folder.job(job).lock, "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (tmp_path / "go").touch()
        wait_until(lambda: managed.client.show(job)["state"] == "STARTING")
        wait_until(managed.folder.job(job).log.exists)
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def test_two_managers_at_once(managed: Managed) -> None:
    managed.start()
    second = subprocess.run(
        [sys.executable, "-m", "sage", "jobmanager", "start", "--foreground"], capture_output=True, text=True,
        env=environment(SAGE_DATA_DIR=str(managed.folder.path.parent)), timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert managed.manager is not None
    assert second.stderr.startswith("E141 a job manager runs already")
    assert f"process {managed.manager.pid}" in second.stderr
    assert managed.client.status()["pid"] == managed.manager.pid


def test_the_lock_of_a_job_is_held_by_its_processes(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    """So a resume cannot begin while a process of the last run is there."""
    managed.start()
    job = managed.submit(QUICK, start_delay_s=3600)
    managed.client.stop(job)
    with open(managed.folder.job(job).lock, "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=f"E149 processes of the last run are still there at job {job}"):
            managed.client.resume(job)
    managed.client.resume(job)
    assert managed.end_of(job)["state"] == "SUCCEEDED"


def small_disk(path: Path, size: str) -> None:
    path.mkdir(mode=0o700, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "sage-test", str(path)], check=True)


@pytest.fixture
def disk(managed: Managed) -> Iterator[Path]:
    """The state folder on a disk of 1 MB."""
    path = managed.folder.path.parent
    small_disk(path, "1m")
    yield path
    managed.close()
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> Path:
    with open(path / "filling", "wb", buffering=0) as file, suppress(OSError):
        for size in (65536, 4096):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return path / "filling"


@pytest.mark.root
def test_a_full_disk(managed: Managed, disk: Path, wait_until: Wait, tmp_path: Path) -> None:
    """Nothing new is taken in; what runs goes on, and its end is stored as soon as there is room."""
    managed.start()
    job = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    filling = fill(disk)
    with pytest.raises(StorageError, match=r"E601 no space left for the state of jobs at .*Try: df "):
        managed.submit(QUICK)
    assert managed.client.show(job)["state"] == "RUNNING"
    supervisor = managed.supervisor(job)
    (tmp_path / "go").touch()
    wait_until(lambda: not supervisor.is_alive)
    filling.unlink()
    assert managed.end_of(job)["state"] == "SUCCEEDED"
    managed.end_of(managed.submit(QUICK))


def test_a_newer_state_file(managed: Managed) -> None:
    managed.start()
    managed.kill()
    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; d = sqlite3.connect({str(managed.folder.database)!r}); "
         "d.execute('PRAGMA user_version = 99'); d.close()"], check=True,
    )  # fmt: skip
    second = subprocess.run(
        [sys.executable, "-m", "sage", "jobmanager", "start"], capture_output=True, text=True,
        env=environment(SAGE_DATA_DIR=str(managed.folder.path.parent)), timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert (second.returncode, second.stdout) == (6, "")
    assert second.stderr.startswith("E605 a newer SAGE wrote this at ")


KILLED_TWICE = (
    HEAD
    + """
def call(n):
    with open("bill", "a") as bill:
        bill.write(f"{n}\\n")
    time.sleep(0.01)
    if n == 25 and len(Path("began").read_text().splitlines()) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": n}

pipeline = sage.Pipeline("killed")
pipeline.read(Items(range(50))).map(call, durable=True).write(JsonLines("out.jsonl"))
"""
)


def test_a_job_with_a_directory_that_is_killed_goes_on_by_itself(managed: Managed, tmp_path: Path) -> None:
    managed.start()
    found = managed.end_of(managed.submit(KILLED_TWICE, job_dir=str(tmp_path / "job")))
    assert (found["state"], found["run"]) == ("SUCCEEDED", 1), managed.log(found["id"])
    assert len(managed.lines("began")) == 3
    assert len(managed.lines("out.jsonl")) == 50
    assert len(managed.lines("bill")) == 52
