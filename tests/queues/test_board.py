"""The figures of queues, as other processes see them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from processes import Other

from patience import DEADLINE_S
from sage.errors import QueueError
from sage.queues import (
    LocalQueueDescriptor,
    Queue,
    QueueBroken,
    QueueClosed,
    QueueStats,
    QueueView,
    SageQueueDescriptor,
    SharedMemoryQueueDescriptor,
    handles,
    metrics_text,
    overview,
)
from sage.queues.board import HandleFigures, Posting
from sage.queues.front import Front

Wait = Callable[[Callable[[], object]], None]
NOTHING = QueueStats(
    total_puts=0, total_gets=0, batch_puts=0, batch_gets=0, avg_batch_size=0.0, pending_batches=0, buffer_size=0,
    bytes_in=0, bytes_out=0, put_wait_s=0.0, get_wait_s=0.0, depth=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the postings of this test go."""
    monkeypatch.setenv("SAGE_RUNTIME_DIR", str(tmp_path / "run"))
    yield tmp_path / "run"
    assert list((tmp_path / "run").glob("queues-*")) == []


def names() -> list[str]:
    return [queue.name for queue in overview()]


def gone(folder: Path) -> bool:
    return not list(folder.glob("*"))


def test_a_queue_is_there_while_it_is_open(folder: Path, wait_until: Wait) -> None:
    queue = LocalQueueDescriptor(queue_id="orders", maxsize=4).create()
    queue.put_batch([1, 2, 3])
    queue.get()
    wait_until(lambda: [found.depth for found in overview()] == [2])
    (found,) = overview()
    (handle,) = found.handles
    assert (found.name, found.kind, found.maxsize, found.filled) == ("orders", "local", 4, 0.5)
    assert (handle.process, handle.role, handle.silent_s) == (os.getpid(), "both", 0.0)
    assert handle.figures.stats == queue.get_stats()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
    queue.detach()
    wait_until(lambda: gone(folder))
    assert overview() == []


def test_there_is_one_thread_and_it_ends(wait_until: Wait) -> None:
    def posters() -> int:
        return sum(thread.name == "sage-queue-board" for thread in threading.enumerate())

    queues = [LocalQueueDescriptor().create() for _ in range(3)]
    assert posters() == 1
    queues.pop().detach()
    queues.append(LocalQueueDescriptor().create())
    wait_until(lambda: len(overview()) == 3)
    assert posters() == 1
    for queue in queues:
        queue.detach()
    wait_until(lambda: posters() == 0)


def test_a_queue_of_two_processes_is_one_row(wait_until: Wait) -> None:
    descriptor = SharedMemoryQueueDescriptor(queue_id="orders", maxsize=10)
    queue = descriptor.create()
    with Other(descriptor, "q = descriptor.open()\nq.get()\nsay('got')\nhear()\nq.detach()") as other:
        queue.put_batch(["a", "b", "c"])
        assert other.hear() == "got"
        wait_until(lambda: [len(found.handles) for found in overview()] == [2] and overview()[0].depth == 2)
        (found,) = overview()
        roles = {handle.process: handle.role for handle in found.handles}
        assert roles == {os.getpid(): "producer", other.process.pid: "consumer"}
        other.say("end")
        wait_until(lambda: len(overview()[0].handles) == 1)
    queue.detach()
    wait_until(lambda: names() == [])


def test_a_queue_that_moved_is_still_one(wait_until: Wait) -> None:
    descriptor = SageQueueDescriptor(queue_id="orders")
    queue = descriptor.create()
    queue.put("a")
    wait_until(lambda: [(found.kind, found.depth) for found in overview()] == [("sage", 1)])
    with Other(descriptor, "q = descriptor.open()\nq.get()\nhear()\nq.detach()") as other:
        wait_until(lambda: [(found.kind, len(found.handles)) for found in overview()] == [("sage", 2)])
        wait_until(lambda: overview()[0].depth == 0)
        other.say("end")
        wait_until(lambda: len(overview()[0].handles) == 1)
    queue.detach()
    wait_until(lambda: names() == [])


def test_queues_of_one_name_in_two_processes_are_two(wait_until: Wait) -> None:
    descriptor = LocalQueueDescriptor(queue_id="orders")
    queue = descriptor.create()
    with Other(descriptor, "q = descriptor.create()\nhear()\nq.detach()") as other:
        wait_until(lambda: names() == ["orders", "orders"])
        other.say("end")
        wait_until(lambda: names() == ["orders"])
    queue.detach()
    wait_until(lambda: names() == [])


class Through(Front[int]):
    """A handle that stands before another one."""

    def _follow(self, core: Queue[int], error: QueueClosed | QueueBroken) -> None:
        raise error

    def detach(self) -> None:
        self.core.detach()
        handles.forget(self)


@dataclass(frozen=True)
class ThroughAddress:
    queue_id: str
    kind: str = "through"
    leaves_process: bool = False


def test_a_queue_behind_another_is_not_a_second_one(wait_until: Wait) -> None:
    core = LocalQueueDescriptor(queue_id="orders").create()
    front = handles.create(ThroughAddress("orders"), lambda: Through(core))
    wait_until(lambda: [found.kind for found in overview()] == ["through"])
    front.detach()
    wait_until(lambda: names() == [])


def test_what_a_killed_process_left_is_removed(folder: Path, wait_until: Wait) -> None:
    with Other(LocalQueueDescriptor(queue_id="orders"), "q = descriptor.create()\nhear()") as other:
        wait_until(lambda: names() == ["orders"])
        other.process.kill()  # a zombie, as long as nobody waits for it
        wait_until(lambda: overview() == [])
        other.kill()
        (folder / f".queues-{other.process.pid}.1").touch(0o600)
        assert overview() == []
        assert gone(folder)


def test_a_process_that_ends_with_open_queues_leaves_nothing(folder: Path) -> None:
    program = """
import sage.queues
queue = sage.queues.LocalQueueDescriptor().create()
while not sage.queues.overview():
    pass
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_S)
    assert gone(folder)


def posting(**changes: Any) -> dict[str, Any]:
    """What this process might have posted."""
    figures = {
        "kind": "local", "queue_id": "orders", "identity": "1", "maxsize": 10, "opened_at_s": 1.0,
        "stats": vars_of(NOTHING), "earlier": vars_of(NOTHING), "between_s": 1.0,
    }  # fmt: skip
    return {
        "version": 1, "process": os.getpid(), "started": beginning(), "program": "test", "posted_at_s": 2.0,
        "handles": [figures],
    } | changes  # fmt: skip


def vars_of(stats: QueueStats) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in QueueStats.__slots__}


def beginning() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def file(folder: Path) -> Iterator[Path]:
    """The file of this process, which does not post itself."""
    folder.mkdir(0o700)
    path = folder / f"queues-{os.getpid()}.json"
    path.touch(0o600)
    yield path
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)


def test_a_whole_file_is_read(file: Path) -> None:
    file.write_text(json.dumps(posting()))
    assert names() == ["orders"]


def test_a_file_of_an_earlier_process_of_this_number_is_removed(file: Path) -> None:
    file.write_text(json.dumps(posting(started=beginning() - 1)))
    assert overview() == []
    assert not file.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff" * 100,
        b"[" * 100_000,
        b"{}",
        b'"\\ud800"',
        json.dumps(posting(version=2)).encode(),
        json.dumps(posting(process=1)).encode(),
        json.dumps(posting(handles=[{}])).encode(),
        json.dumps(posting(handles=[{"kind": 1}])).encode(),
        json.dumps(posting(posted_at_s="now")).encode(),
        json.dumps(posting(posted_at_s=float("nan"))).encode(),
        json.dumps(posting()).encode()[:-1],
        json.dumps(posting()).encode() + b" " * (8 << 20),
    ],
    ids=range(13),
)
def test_a_broken_file_is_passed_over(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert overview() == []


def test_what_is_no_file_of_ours_is_passed_over(file: Path) -> None:
    good = file.with_name("good")
    good.write_text(json.dumps(posting()))
    good.chmod(0o600)
    file.unlink()
    file.symlink_to(good)
    assert overview() == []
    file.unlink()
    os.mkfifo(file, 0o600)
    assert overview() == []
    file.unlink()
    file.mkdir()
    assert overview() == []
    file.rmdir()
    file.write_text(json.dumps(posting()))
    file.chmod(0o644)
    assert overview() == []


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_folder_that_is_not_ours_alone_is_refused(folder: Path, kind: str) -> None:
    if kind == "open to others":
        folder.mkdir(0o700)
        folder.chmod(0o755)
    elif kind == "a link":
        folder.symlink_to(folder.parent)
    else:
        folder.touch()
    with pytest.raises(QueueError, match="E507"):
        overview()


def test_queues_work_where_figures_cannot_be_posted(
    folder: Path, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    folder.touch()
    queue = LocalQueueDescriptor().create()
    wait_until(lambda: "not shown: E507" in caplog.text)
    queue.put(1)
    assert queue.get() == 1
    queue.detach()


# --- what is made of them ---------------------------------------------------------------------------------------------


def view(now: QueueStats, *, maxsize: int | None = 100, posted_at_s: float | None = None, name: str = "q") -> QueueView:
    """A queue that one process has open, two seconds after it did nothing yet; the posting will not be old soon."""
    at_s = time.monotonic() + 60 if posted_at_s is None else posted_at_s
    figures = HandleFigures("local", name, "1", maxsize, at_s - 2, now, NOTHING, 2.0)
    (found,) = overview([Posting(1, 7, 1, "program", at_s, (figures,))])
    return found


def test_rates_are_those_of_the_last_moments() -> None:
    found = view(replace(NOTHING, total_puts=100, total_gets=50, put_wait_s=1.0, get_wait_s=0.5, depth=50))
    assert (found.puts_per_s, found.gets_per_s, found.put_wait, found.get_wait) == (50, 25, 0.5, 0.25)


def test_a_process_that_posts_no_more_has_no_rates() -> None:
    found = view(replace(NOTHING, total_puts=100), posted_at_s=0.0)
    assert found.handles[0].silent_s > 3
    assert found.puts_per_s == 0


def test_the_kind_is_that_of_the_front() -> None:
    figures = HandleFigures("shared_memory", "q", "1", 10, 0.0, NOTHING, NOTHING, 0.0)
    postings = [Posting(1, 7, 1, "", 0.0, (figures,)), Posting(1, 8, 1, "", 0.0, (replace(figures, kind="local"),))]
    (found,) = overview(postings)
    assert (found.kind, len(found.handles), found.puts_per_s) == ("shared_memory", 2, 0.0)


@pytest.mark.parametrize(
    ("stats", "maxsize", "slow"),
    [
        (NOTHING, 100, None),
        (replace(NOTHING, depth=50), 100, None),
        (replace(NOTHING, depth=95), 100, "consumers"),
        (replace(NOTHING, depth=95), None, None),
        (replace(NOTHING, put_wait_s=1.8, get_wait_s=0.1, depth=60), 100, "consumers"),
        (replace(NOTHING, put_wait_s=0.1, get_wait_s=1.8), 100, "producers"),
        (replace(NOTHING, get_wait_s=0.05), 100, None),
    ],
)
def test_who_is_slow(stats: QueueStats, maxsize: int | None, slow: str | None) -> None:
    assert view(stats, maxsize=maxsize).slow_side == slow


def test_prometheus_text(file: Path) -> None:
    name = 'a"b\\c\nd\x1b[31m'
    figures = posting()["handles"][0] | {"queue_id": name, "stats": vars_of(replace(NOTHING, total_puts=3, depth=2))}
    file.write_text(json.dumps(posting(handles=[figures])))
    lines = metrics_text().splitlines()
    labels = rf'kind="local",process="{os.getpid()}",queue="a\"b\\c\\nd\\x1b[31m"'
    assert f"sage_queue_puts_total{{{labels}}} 3" in lines
    assert f"sage_queue_depth{{{labels}}} 2" in lines
    assert "# TYPE sage_queue_puts_total counter" in lines
    assert all(line.isprintable() for line in lines)
