"""Hosts as processes of this machine: how one is started, and what is said of its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

from sage.errors import shorten
from sage.runtime.messages import Link


class HostProcess:
    """One process, from its start to its end. The thread that starts it must live as long as it does: the system kills
    the process when that thread ends, so that nothing is left when the driver is killed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.link = Link(ours)
        self._theirs = theirs
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def start(self) -> None:
        """Raises OSError."""
        fd = self._theirs.fileno()
        with self._theirs:
            command = [sys.executable, "-P", "-m", "sage.runtime.hosted", str(fd)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=_output(), pass_fds=[fd], process_group=0
            )  # a group of its own: Ctrl-C in the terminal is for the driver
        if self._killed:
            self._process.kill()

    def wait(self) -> str:
        """Wait for the end of the process; what it was, in words."""
        assert self._process is not None
        code = self._process.wait()
        self.link.shut()
        process = f"process {self._process.pid}"
        if code >= 0:
            return f"{process} ended with exit code {code}"
        return f"{process} was killed by {_signal_name(-code)}"

    def kill(self) -> None:
        """End it at once, if it has not ended; from any thread."""
        self._killed = True
        if self._process is not None:
            self._process.kill()


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
