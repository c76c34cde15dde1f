"""What dead managers and jobs leave behind."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from jobs.managers import ENDLESS, QUICK, RELEASED, Managed
from sage.jobs.cleanup import leftovers
from sage.processes import MARK

Wait = Callable[[Callable[[], object]], None]


def kinds(managed: Managed, known: set[str]) -> list[str]:
    return sorted(one.kind for one in leftovers(managed.folder, lambda: known))


def remove_all(managed: Managed, known: set[str]) -> None:
    for one in leftovers(managed.folder, lambda: known):
        one.remove()


def test_nothing_while_all_is_well(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(ENDLESS)
    wait_until((tmp_path / "working").exists)
    assert kinds(managed, {job}) == []
    managed.kill()
    assert kinds(managed, {job}) == ["note", "socket"]  # the job goes on, and is left alone
    remove_all(managed, {job})
    assert kinds(managed, {job}) == []
    managed.start()
    assert managed.client.show(job)["state"] == "RUNNING"
    managed.client.stop(job)
    managed.end_of(job)


def test_processes_that_nobody_sees_to(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    """A job starts something in a session of its own; job, supervisor and manager are killed."""
    source = RELEASED + "import subprocess\nsubprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
    managed.start()
    job = managed.submit(source)
    wait_until((tmp_path / "working").exists)
    supervisor = managed.supervisor(job)
    managed.kill()
    supervisor.send(signal.SIGKILL)
    wait_until(lambda: len(managed.processes()) == 1)
    (left,) = managed.processes()
    other = subprocess.Popen(["sleep", "3600"], env={MARK: str(tmp_path / "another" / job)})  # of another folder
    (found,) = (one for one in leftovers(managed.folder, lambda: {job}) if one.kind == "process")
    assert found.what == f"{left} of job {job}"
    remove_all(managed, {job})
    assert managed.processes() == []
    assert other.poll() is None
    assert kinds(managed, {job}) == []
    other.kill()
    other.wait()


def test_folders_and_files_of_nobody(managed: Managed) -> None:
    managed.start()
    job = managed.submit(QUICK)
    managed.end_of(job)
    orphan = managed.folder.jobs / "0123abcd"
    orphan.mkdir()
    (orphan / "log").touch()
    (managed.folder.job(job).path / "job.json.tmp").touch()
    (managed.folder.path / "notes.txt").touch()  # nothing that SAGE made
    (managed.folder.jobs / "other").mkdir()
    assert kinds(managed, {job}) == ["folder of no job", "temporary file"]
    remove_all(managed, {job})
    assert kinds(managed, {job}) == []
    assert (managed.folder.path / "notes.txt").exists()
    assert sorted(os.listdir(managed.folder.jobs)) == sorted([job, "other"])


def test_where_nothing_ever_was(managed: Managed) -> None:
    assert leftovers(managed.folder, set) == []
    assert not managed.folder.path.exists()
