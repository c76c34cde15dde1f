"""The jobs on disk."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sage.errors import StorageError
from sage.jobs.job import Job, JobSpec
from sage.jobs.states import State
from sage.jobs.store import VERSION, Store
from sage.processes import this_process

JOB = Job("0123abcd", JobSpec("/flow.py", "/", arguments=("-x", "ü '; DROP TABLE jobs --")), 12.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


def stored(path: Path) -> list[Job]:
    store = Store(path)
    try:
        return list(store.jobs())
    finally:
        store.close()


def test_what_was_put_is_there_again(path: Path) -> None:
    store = Store(path)
    running = JOB.changed(State.STARTING, 13.0, run=1).changed(State.RUNNING, 14.0, "why", supervisor=this_process())
    store.put(JOB)
    store.put(running)
    store.put(Job("ffffffff", JOB.spec, 13.0))
    store.delete("ffffffff")
    store.close()
    assert stored(path) == [running]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_cannot_have_it_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.jobs.store._LOCK_TIMEOUT_S", 0.0)
    store = Store(path)
    store.put(JOB)
    with pytest.raises(StorageError, match=r"E604 .*locked"):
        Store(path)
    store.close()


def change(path: Path, sql: str) -> None:
    db = sqlite3.connect(path)
    db.execute(sql)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("sql", "code", "said"),
    [
        (f"PRAGMA user_version = {VERSION + 1}", "E605", f"got version {VERSION + 1}, expected at most {VERSION}"),
        ("PRAGMA application_id = 7", "E604", "another program"),
        ("CREATE TRIGGER t AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END", "E604", "TRIGGER"),
        ("CREATE VIEW v AS SELECT * FROM jobs", "E604", "VIEW"),
        ("DROP TABLE jobs", "E604", "tables"),
        ("UPDATE jobs SET job = replace(job, '/flow.py', '/evil.py')", "E604", "0123abcd: the checksum"),
        ("UPDATE jobs SET id = '00000000'", "E604", "the checksum"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(path: Path, sql: str, code: str, said: str) -> None:
    store = Store(path)
    store.put(JOB)
    store.close()
    change(path, sql)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=f"{code} .*{said}"):
        stored(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:100], lambda data: b"not a database" * 400, lambda data: data[:5000]]
)
def test_a_broken_file_is_refused(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    store = Store(path)
    store.put(JOB)
    store.close()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StorageError, match=r"E604 .*Try: put jobs.sqlite"):
        stored(path)


def test_flipped_bits_are_never_taken_for_a_job(path: Path) -> None:
    store = Store(path)
    store.put(JOB)
    store.close()
    whole = path.read_bytes()
    wrong = []
    for at in range(0, len(whole), 61):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        Path(f"{path}-wal").unlink(missing_ok=True)
        try:
            found = stored(path)
        except StorageError:
            continue
        if found != [JOB]:
            wrong.append(at)
    assert wrong == []


def test_a_link_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="symbolic"):
        Store(path)
