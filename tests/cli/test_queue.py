"""``sage queue``, while this process has queues open."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.command_line import SAGE, Running, environment, sage, sage_here
from patience import DEADLINE_S
from sage.queues import LocalQueueDescriptor, Queue, overview

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """Where this process and ``sage`` meet: the settings file is in the folder that both run in."""
    (tmp_path / "sage.toml").write_text('runtime_dir = "run"\n')
    return tmp_path / "run"


@pytest.fixture
def orders(folder: Path, wait_until: Wait) -> Iterator[Queue[int]]:
    """A queue of 10 with 9 items."""
    queue = LocalQueueDescriptor(queue_id="orders", maxsize=10).create()
    queue.put_batch(range(9))
    wait_until(lambda: [found.depth for found in overview()] == [9])
    yield queue
    queue.detach()
    wait_until(lambda: not list(folder.iterdir()))


def test_list_and_show(orders: Queue[int], tmp_path: Path) -> None:
    listed = sage("queue", "list", cwd=tmp_path, env=environment(COLUMNS="200"))  # rates may be long numbers
    heading, row = listed.stdout.splitlines()
    assert heading.split()[:5] == ["queue", "kind", "depth", "full", "puts/s"]
    assert row.split()[:4] == ["orders", "local", "9/10", "90%"]
    assert "consumers" in row
    shown = sage("queue", "show", "orders", cwd=tmp_path)
    assert shown.stdout.startswith("orders: local, 9/10 items (90%), 1 process\n")
    assert f"process {os.getpid()} (" in shown.stdout
    assert (listed.returncode, shown.returncode) == (0, 0)
    assert listed.stderr == shown.stderr == ""


def test_json(orders: Queue[int], tmp_path: Path) -> None:
    (listed,) = json.loads(sage("queue", "list", "--json", cwd=tmp_path).stdout)["queues"]
    assert (listed["name"], listed["depth"], listed["maxsize"]) == ("orders", 9, 10)
    assert (listed["slow_side"], listed["processes"]) == ("consumers", [os.getpid()])
    (shown,) = json.loads(sage("queue", "show", "orders", "--json", cwd=tmp_path).stdout)["queues"]
    (handle,) = shown["handles"]
    assert (handle["process"], handle["role"], handle["total_puts"]) == (os.getpid(), "producer", 9)


def test_prometheus(orders: Queue[int], tmp_path: Path) -> None:
    text = sage("queue", "list", "--prometheus", cwd=tmp_path).stdout
    assert f'sage_queue_depth{{kind="local",process="{os.getpid()}",queue="orders"}} 9\n' in text


def test_no_queues(tmp_path: Path) -> None:
    listed = sage("queue", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "no queue is open" in listed.stderr
    assert json.loads(sage("queue", "list", "--json", cwd=tmp_path).stdout) == {"queues": []}
    assert sage("queue", "list", "--prometheus", cwd=tmp_path).stdout == ""
    assert "no queue is open" in sage("queue", "watch", "--count", "1", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ordrs", "sage queue show orders"),
        ("", "sage queue list"),
        ("../x", "list"),
        ("\x1b[31m", "list"),
        ("x" * 9999, "list"),
    ],
)
def test_a_name_that_no_queue_has(orders: Queue[int], tmp_path: Path, name: str, hint: str) -> None:
    shown = sage_here("queue", "show", name, cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("E128 ")
    assert shown.stderr.rstrip().endswith(hint)
    assert shown.stderr.rstrip().isprintable()
    assert len(shown.stderr) < 400


@pytest.mark.parametrize(
    "arguments",
    [
        ("watch", "--interval", "0"),
        ("watch", "--interval", "-1"),
        ("watch", "--interval", "nan"),
        ("watch", "--interval", "1e99"),
        ("watch", "--interval", ""),
        ("watch", "--count", "0"),
        ("watch", "--count", "x"),
        ("list", "--json", "--prometheus"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = sage_here("queue", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("E104 ")


def test_a_folder_of_somebody_else(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    listed = sage("queue", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stdout) == (6, "")
    assert listed.stderr.startswith("E507 ")


def test_watch_without_a_terminal_is_a_block_per_look(orders: Queue[int], tmp_path: Path) -> None:
    watched = sage("queue", "watch", "--count", "2", "--interval", "0.1", cwd=tmp_path)
    assert watched.returncode == 0
    assert watched.stdout.count("orders") == 2
    assert watched.stdout.count("1 queue, 1 process\n") == 2
    assert "\x1b" not in watched.stdout


def test_watch_ends_well_at_ctrl_c(orders: Queue[int], tmp_path: Path) -> None:
    with Running("queue", "watch", "--interval", "0.1", cwd=tmp_path) as watching:
        watching.wait_for("orders")
        watching.interrupt()
        code, _ = watching.end()
    assert code == 0


def test_watch_on_a_terminal_draws_the_table_anew(orders: Queue[int], tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    with closing(open(terminal, "rb", buffering=0)) as screen:
        watching = subprocess.Popen(
            [*SAGE, "queue", "watch", "--interval", "0.1"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=theirs,
            stderr=subprocess.STDOUT, env=environment(TERM="xterm", COLUMNS="80", LINES="24"),
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        while seen.count(b"orders") < 3:
            seen += screen.read(4096)
        watching.send_signal(signal.SIGINT)
        seen += _rest(screen)
        assert watching.wait(DEADLINE_S) == 0
    assert b"\x1b[1A" in seen  # up a line, to draw over what is there
    assert b"\x1b[?25h" in seen  # the cursor is back
    assert b"Traceback" not in seen


def _rest(screen: Any) -> bytes:
    rest = b""
    try:
        while more := screen.read(4096):
            rest += more
    except OSError:  # the other end is closed
        pass
    return rest


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_fits_the_terminal(folder: Path, tmp_path: Path, wait_until: Wait, columns: int) -> None:
    queues = [LocalQueueDescriptor(queue_id=letter * 64, maxsize=None).create() for letter in "ab"]
    wait_until(lambda: len(overview()) == 2)
    listed = sage("queue", "list", cwd=tmp_path, env=environment(COLUMNS=str(columns)))
    lines = listed.stdout.splitlines()
    assert [line[0] for line in lines] == ["q", "a", "b"]
    assert max(map(len, lines)) < max(columns, 60)
    assert ("a" * 64 in listed.stdout) == (columns == 200)
    for queue in queues:
        queue.detach()
    wait_until(lambda: not list(folder.iterdir()))
