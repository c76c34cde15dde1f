"""The engine of one machine: hosts are processes, and shared memory lies between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from sage.errors import shorten
from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.queues import SharedMemoryQueueDescriptor
from sage.runtime.edges import queues_of
from sage.runtime.engine import Made
from sage.runtime.messages import Setup, SocketLink
from sage.runtime.placement import Placement, place, with_routes
from sage.scheduling import DEFAULT, scheduler_named

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessEngine:
    """`processes` hosts on this machine, beside this one."""

    sees_files = True

    def __init__(self, processes: int, scheduler: str | None = None) -> None:
        """Raises `SchedulingError` E246 for a scheduler that there is not."""
        self._processes = processes
        self.scheduler = scheduler_named(scheduler or DEFAULT)

    def place(self, graph: ExecutionGraph) -> Placement:
        return with_routes(graph, place(graph, self._processes))

    def give_up(self) -> None:
        """It waits for nothing."""

    def queues(self, task: TaskPlan, producers: int, placement: Placement) -> Sequence[Made]:
        sizes = queues_of(task, producers, placement.routes(task))
        ways = [SharedMemoryQueueDescriptor(maxsize=maxsize) for maxsize in sizes]
        return [Made(way, way.create()) for way in ways]

    def host(self, number: int) -> HostProcess:
        return HostProcess()

    def clear(self, lost: Collection[int]) -> None:
        """The hosts end by themselves, and so do queues that nobody has open."""

    def close(self) -> None:
        """There is nothing else."""


class HostProcess:
    """One process, from its start to its end. The thread that starts it must live as long as it does: the system kills
    the process when that thread ends, so that nothing is left when the driver is killed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.link = SocketLink(ours)
        self._theirs = theirs
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def start(self, setup: Setup) -> None:
        fd = self._theirs.fileno()
        with self._theirs:
            command = [sys.executable, "-P", "-m", "sage.runtime.hosted", str(fd)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=_output(), pass_fds=[fd], process_group=0
            )  # a group of its own: Ctrl-C in the terminal is for the driver
        if self._killed:
            self._process.kill()
        with suppress(OSError):  # it is gone: whoever waits for it tells
            self.link.send(setup)

    def wait(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.link.shut()
        process = f"process {self._process.pid}"
        if code >= 0:
            return f"{process} ended with exit code {code}"
        return f"{process} was killed by {_signal_name(-code)}"

    def kill(self) -> None:
        self._killed = True
        if self._process is not None:
            self._process.kill()

    @property
    def process(self) -> int | None:
        return None if self._process is None else self._process.pid

    def processor_s(self) -> float | None:
        return None if self._process is None else processor_s_of(self._process.pid)


def processor_s_of(pid: int) -> float | None:
    """What a process of this machine used; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def _output() -> int:
    """Where this process prints to: a host's prints belong there too."""
    try:
        return sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        return 2


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return shorten(f"signal {number}")
