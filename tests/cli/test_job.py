"""``sage job`` and ``sage jobmanager``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cli.command_line import SAGE, Running, environment, sage, sage_here
from jobs.managers import ENDLESS, QUICK, RELEASED, Managed
from patience import DEADLINE_S
from sage.jobs.daemon import manager_of
from sage.processes import end_all

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def managed(tmp_path: Path, wait_until: Wait) -> Iterator[Managed]:
    """The settings file is in the folder that everything runs in."""
    (tmp_path / "sage.toml").write_text('data_dir = "data"\nruntime_dir = "run"\n')
    managed = Managed(tmp_path)
    yield managed
    manager = manager_of(managed.folder)
    assert manager is None or end_all([manager], DEADLINE_S) == []
    managed.close()
    wait_until(lambda: managed.processes() == [])


def write(managed: Managed, source: str) -> None:
    (managed.where / "flow.py").write_text(source)


def submit(managed: Managed, source: str, *options: str) -> str:
    write(managed, source)
    done = sage("job", "submit", "flow.py", *options, cwd=managed.where)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_from_start_to_stop(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    started = sage("jobmanager", "start", "--max-jobs", "1", cwd=tmp_path)
    assert (started.returncode, started.stdout) == (0, "")
    manager = manager_of(managed.folder)
    assert manager is not None
    assert started.stderr == f"the job manager runs: process {manager.pid}, {managed.folder.path}\n"
    again = sage("jobmanager", "start", cwd=tmp_path)
    assert (again.returncode, again.stderr[:5]) == (2, "E141 ")
    assert sage("job", "list", cwd=tmp_path).stderr == "there are no jobs\n"
    job = submit(managed, RELEASED, "--name", "first", "--first", "4", "--", "an argument")
    wait_until((tmp_path / "working").exists)
    second = submit(managed, RELEASED, "--priority", "9")
    wide = {**environment(), "COLUMNS": "200"}
    heading, *rows = sage("job", "list", cwd=tmp_path, env=wide).stdout.splitlines()
    assert heading.split()[:2] == ["job", "state"]
    assert [row.split()[:3] for row in rows] == [[job, "first", "RUNNING"], [second, "flow", "PENDING"]]
    assert rows[1].endswith("place 1: all 1 places are taken")
    status = sage("jobmanager", "status", cwd=tmp_path)
    assert "jobs: 1 pending, 1 running; 1 of at most 1 at once" in status.stdout
    assert json.loads(sage("jobmanager", "status", "--json", cwd=tmp_path).stdout)["jobs"] == {
        "PENDING": 1,
        "RUNNING": 1,
    }
    (tmp_path / "go").touch()
    for one in (job, second):
        watched = sage("job", "watch", one, cwd=tmp_path)
        assert watched.returncode == 0
        assert watched.stdout.startswith(f"{one}  ")
        assert ": SUCCEEDED\n" in watched.stdout
    shown = sage("job", "show", job, cwd=tmp_path).stdout
    assert "arguments an argument" in shown
    assert "read 4 = written 4" in shown
    assert json.loads(sage("job", "show", job, "--json", cwd=tmp_path).stdout)["state"] == "SUCCEEDED"
    assert "released: SUCCEEDED" in sage("job", "logs", job, cwd=tmp_path).stdout
    assert sage("job", "delete", job, second, cwd=tmp_path).returncode == 0
    assert json.loads(sage("job", "list", "--json", cwd=tmp_path).stdout) == {"jobs": []}
    stopped = sage("jobmanager", "stop", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr) == (0, "the job manager has stopped; jobs that run go on\n")
    assert sage("jobmanager", "stop", cwd=tmp_path).stderr == "no job manager runs\n"
    assert not managed.folder.socket.exists()
    assert job in managed.folder.log.read_text()


def test_stop_and_resume(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = submit(managed, ENDLESS)
    wait_until((tmp_path / "working").exists)
    assert sage("job", "delete", job, cwd=tmp_path).stderr.startswith("E144 the job cannot delete: it runs")
    assert sage("job", "stop", job, cwd=tmp_path).stderr == f"{job} is STOPPING\n"
    watched = sage("job", "watch", job, cwd=tmp_path)
    assert watched.returncode == 130
    again = sage("job", "stop", job, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, f"{job} has ended already: CANCELLED\n")
    (tmp_path / "working").unlink()
    assert sage("job", "resume", job, cwd=tmp_path).returncode == 0
    wait_until((tmp_path / "working").exists)
    managed.client.stop(job)
    managed.end_of(job)


def test_watch_follows_and_ctrl_c_leaves_the_job_alone(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = submit(managed, ENDLESS)
    with Running("job", "watch", job, cwd=tmp_path) as watching:
        watching.wait_for("endless")
        watching.interrupt()
        code, _ = watching.end()
    assert code == 0
    with Running("job", "logs", "-f", job, cwd=tmp_path) as following:
        following.wait_for("endless")
        following.interrupt()
        assert following.end()[0] == 0
    assert managed.client.show(job)["state"] == "RUNNING"
    managed.client.stop(job)
    managed.end_of(job)


def test_the_exit_code_of_watch_is_that_of_run(managed: Managed, tmp_path: Path) -> None:
    managed.start()
    job = submit(managed, "import nothing_of_this_name\n")
    watched = sage("job", "watch", job, cwd=tmp_path)
    run = sage("run", "flow.py", cwd=tmp_path)
    assert watched.returncode == run.returncode == 3
    assert run.stderr.split(" at ")[0] in watched.stdout


def test_a_job_outlives_the_terminal(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    """Manager and job are started from a session that is hung up and gone."""
    write(managed, RELEASED)
    shell = subprocess.Popen(
        ["sh", "-c", f"{' '.join(SAGE)} jobmanager start && {' '.join(SAGE)} job submit flow.py && sleep 3600"],
        cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert shell.stdout is not None
    with shell.stdout as output:
        job = output.readline().strip()
    wait_until((tmp_path / "working").exists)
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGHUP)
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    (tmp_path / "go").touch()
    assert managed.end_of(job)["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("command", "job", "code"),
    [
        *(("show", job, "E142") for job in ("../../x", "", "\x1b[31m", "x" * 9999, "flo")),
        *((command, "../../x", "E142") for command in ("stop", "resume", "delete", "watch", "logs")),
        *((command, "0123abcd", "E143") for command in ("show", "stop", "resume", "delete", "watch", "logs")),
    ],
)
def test_an_id_that_no_job_has(served: Managed, command: str, job: str, code: str) -> None:
    done = sage_here("job", command, job, cwd=served.where)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{code} ")
    assert done.stderr.rstrip().isprintable()
    assert len(done.stderr) < 400
    if job == "flo":
        (known,) = served.client.list()
        assert done.stderr.endswith(f"Try: {known['id']}, which is flow\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """A manager with one job, which waits."""
    managed = Managed(tmp_path_factory.mktemp("served"))
    (managed.where / "sage.toml").write_text('data_dir = "data"\n')
    managed.start()
    managed.submit(QUICK, start_delay_s=3600)
    yield managed
    managed.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("job",), "E100"), (("job", "submt"), "E101"), (("job", "submit"), "E103"),
        (("job", "submit", "no.py"), "E120"), (("job", "submit", "."), "E121"),
        (("job", "submit", "flow.py", "--priority", "10"), "E145"),
        (("job", "submit", "flow.py", "--priority", "-1"), "E104"),
        (("job", "submit", "flow.py", "--start-delay", "nan"), "E104"),
        (("job", "submit", "flow.py", "--start-delay", "1e99"), "E104"),
        (("job", "submit", "flow.py", "--name", "../x"), "E145"),
        (("job", "submit", "flow.py", "--engine", "spark"), "E110"),
        (("job", "submit", "flow.py", "--dead-letters", ""), "E104"),
        (("job", "submit", "flow.py", "--nme", "x"), "E102"),
        (("job", "list", "--state", "runing"), "E104"), (("job", "stop"), "E103"), (("job", "execute"), "E103"),
        (("jobmanager", "start", "--max-jobs", "0"), "E104"), (("jobmanager", "start", "--port", "x"), "E104"),
        (("jobmanager", "strt"), "E101"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(served: Managed, arguments: tuple[str, ...], code: str) -> None:
    done = sage_here(*arguments, cwd=served.where)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"{code} ")
    assert len(served.client.list()) == 1


def test_without_a_manager(tmp_path: Path) -> None:
    env = environment(SAGE_DATA_DIR=str(tmp_path / "data"))
    (tmp_path / "flow.py").write_text(QUICK)
    for arguments in (
        ("job", "list"),
        ("job", "submit", "flow.py"),
        ("job", "show", "0123abcd"),
        ("jobmanager", "status"),
    ):
        done = sage_here(*arguments, cwd=tmp_path, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("E140 no job manager runs")
        assert done.stderr.endswith("Try: sage jobmanager start\n")


def clean(managed: Managed, *options: str, answer: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [*SAGE, "jobmanager", "cleanup", *options], cwd=managed.where, env=environment(), input=answer, text=True,
        capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_cleanup_asks_and_reads_the_answer_from_a_pipe(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = submit(managed, RELEASED + "import subprocess\nsubprocess.Popen(['sleep', '3600'], start_new_session=True)\n")
    wait_until((tmp_path / "working").exists)
    supervisor = managed.supervisor(job)
    managed.kill()
    supervisor.send(signal.SIGKILL)
    wait_until(lambda: len(managed.processes()) == 1)
    for options, answer in (((), ""), ((), "n\n"), (("--dry-run",), "y\n"), ((), "no idea\n")):
        code, listed, said = clean(managed, *options, answer=answer)
        assert (code, "nothing was removed" in said) == (0, True)
        assert f"{managed.processes()[0]} of job {job}" in listed
    code, _, said = clean(managed, answer="y\n")
    assert code == 0
    assert "nothing of it is left" in said
    assert managed.processes() == []
    assert clean(managed, "--dry-run")[1].count(str(managed.folder.path)) == 0
    managed.start()
    wait_until(lambda: managed.client.show(job)["state"] == "LOST")


def test_cleanup_with_yes(managed: Managed, tmp_path: Path) -> None:
    managed.start()
    managed.kill()
    code, listed, said = clean(managed, "--yes")
    assert (code, "[y/N]" in said) == (0, False)
    assert str(managed.folder.socket) in listed
    assert not managed.folder.socket.exists()
