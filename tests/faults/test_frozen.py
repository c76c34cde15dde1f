"""A run that stands still and goes on when another one has begun: what it does then is refused."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import History, Workload

Wait = Callable[[Callable[[], object]], None]


@dataclass
class Frozen:
    """A run in the middle of its calls that stands still."""

    pid: int
    told: int

    def go_on(self) -> str:
        """How it ended, after all."""
        os.kill(self.pid, signal.SIGCONT)
        word = b""
        while piece := os.read(self.told, 4096):
            word += piece
        return word.decode()


@contextmanager
def frozen(history: History, wait_until: Wait) -> Iterator[Frozen]:
    pid, told = history.begun()
    try:
        wait_until(lambda: history.billed() > 40)
        wait_until(lambda: stands_still_outside_a_transaction(pid, history.workload.folder))
        yield Frozen(pid, told)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)


def stands_still_outside_a_transaction(pid: int, folder: Path) -> bool:
    """Inside one it would hold up whoever writes to the same database, for as long as these are told to wait."""
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    try:
        for path in (folder / "job" / "journal.db", folder / "out.db", folder / "out.kv"):
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        os.kill(pid, signal.SIGCONT)
        return False
    return True


@pytest.fixture
def history(tmp_path: Path) -> History:
    workload = Workload(tmp_path, records=200, call_s=0.02)
    workload.prepare()
    return History(workload)


def test_its_job_is_its_own_while_it_lives(history: History, wait_until: Wait) -> None:
    with frozen(history, wait_until) as first:
        assert history.run()
        assert history.ended.pop().startswith("REFUSED E603 the journal is locked by another run of this job")
        history.ended.append(first.go_on())
    assert history.violations() == []


def test_where_its_lock_is_gone_it_is_refused_at_the_journal_and_others_at_its_outputs(
    history: History, wait_until: Wait, tmp_path: Path
) -> None:
    with frozen(history, wait_until) as first:
        (tmp_path / "job" / "lock").unlink()
        assert history.run()
        assert "E553" in history.ended[-1]
        assert first.go_on().startswith("FAILED E603 a later run has taken over this job")
    history.in_flight.append(history.workload.most_in_flight)
    history.run_to_the_end()
    assert history.violations() == []
