"""``python -m sage.cluster.keeper FOLDER``: the parent of all nodes of a cluster, as long as who started it lives.

It imports Ray once and makes each node by forking, which saves a second and 60 MB for each. A line of JSON on its input
is a node to start, a line on its output how that went. When the input ends, or the process that started it does, every
process below it is killed and the folder is removed. What is left of a node that died is killed at once; when the
keeper itself is killed, each node does that for its own.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import shutil
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from sage.cluster.cluster import START_PATIENCE_S
from sage.cluster.plan import NodePlan
from sage.cluster.ray_node import start_node, wait_until_dead
from sage.cluster.sessions import (
    adopt_orphans,
    die_with_parent,
    end_descendants,
    end_others_in_session,
    end_sessions,
    enter,
)

_REQUEST_BYTES = 1 << 16
_FAULT_CHARS = 2_000


class Keeper:
    """The loop over all that can happen."""

    def __init__(self, folder: Path, starter: int) -> None:
        self._folder = folder
        self._starter = starter
        self._head_address: str | None = None
        self._requests = bytearray()
        self._reports: dict[int, bytearray] = {}
        self._nodes: set[int] = set()
        self._poll = select.poll()
        self._bell, bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        for fd in (0, starter, self._bell):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Until nobody needs it any more."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._starter or (fd == 0 and not self._read_requests()):
                    return
                if fd == self._bell:
                    self._reap()
                elif fd in self._reports:
                    self._read_report(fd)

    def _read_requests(self) -> bool:
        chunk = os.read(0, _REQUEST_BYTES)
        self._requests += chunk
        *lines, rest = self._requests.split(b"\n")
        self._requests = bytearray(rest)
        for line in lines:
            self._fork(NodePlan(**json.loads(line)))
        return bool(chunk)

    def _fork(self, plan: NodePlan) -> None:
        report, theirs = os.pipe()
        keeper = os.getpid()
        node = os.fork()
        if node == 0:
            try:
                os.close(report)
                _be_node(plan, self._folder, self._head_address, theirs, keeper)
            finally:
                os._exit(1)
        os.close(theirs)
        self._nodes.add(node)
        self._reports[report] = bytearray()
        self._poll.register(report, select.POLLIN)

    def _read_report(self, fd: int) -> None:
        """A report is complete when its writer has closed the pipe."""
        if chunk := os.read(fd, _REQUEST_BYTES):
            self._reports[fd] += chunk
            return
        self._poll.unregister(fd)
        os.close(fd)
        report = json.loads(self._reports.pop(fd) or b'{"fault": "its process was killed"}')
        if self._head_address is None:
            self._head_address = report.get("cluster")
        with suppress(BrokenPipeError):  # the end of the input is noticed next
            os.write(1, json.dumps(report).encode() + b"\n")

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell, 4_096)
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid in self._nodes:
                    self._nodes.remove(pid)
                    end_sessions([pid])


def _be_node(plan: NodePlan, folder: Path, head_address: str | None, report: int, keeper: int) -> NoReturn:
    """What the forked process does all its life."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: _perish(folder))
    die_with_parent(signal.SIGTERM)
    if os.getppid() != keeper:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        enter(plan.namespaces)
        faulthandler.dump_traceback_later(START_PATIENCE_S)  # into the log: where it stood
        node = start_node(plan, folder, head_address)
        faulthandler.cancel_dump_traceback_later()
    except BaseException as error:  # noqa: BLE001 -- the outermost edge of a process: it becomes the report
        _write(report, {"name": plan.name, "fault": f"{type(error).__name__}: {error}"[-_FAULT_CHARS:]})
        os._exit(1)
    _write(
        report,
        {"name": plan.name, "node_id": node.node_id, "address": node.node_ip_address,
         "cpus": plan.cpus, "pid": os.getpid(), "cluster": node.address},
    )  # fmt: skip
    sys.stderr.write(f"{plan.name}: {wait_until_dead(node)} has ended\n")
    sys.stderr.flush()
    os._exit(1)


def _perish(folder: Path) -> NoReturn:
    """The keeper is gone, and with it whoever would clean up."""
    end_others_in_session()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _write(fd: int, report: dict[str, Any]) -> None:
    os.write(fd, json.dumps(report).encode())
    os.close(fd)


def main() -> None:
    """Keep a cluster, whose files are in the folder that is the only argument."""
    folder = Path(sys.argv[1])
    starter = os.pidfd_open(os.getppid())
    adopt_orphans()
    try:
        import_module("ray._private.node")
        Keeper(folder, starter).run()
    finally:
        signal.set_wakeup_fd(-1)
        end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
