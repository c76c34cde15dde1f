"""The processes of a cluster: each node leads a session, and what it starts stays in it. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sage.errors import ClusterError
from sage.processes import Process, descendants, end_all, process_of

END_S = 30.0
"""To die of SIGKILL, on a machine that is very busy."""
_SESSION_FIELD = 3
"""Of ``/proc/PID/stat``, counted behind the name."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def members(sessions: Iterable[int]) -> list[Process]:
    """Every process that lives in one of `sessions`.

    The kernel gives the number of a session to no other process before the last of its members has ended.
    """
    wanted = frozenset(sessions) - {0}
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _session_of(entry) in wanted:
            process = process_of(int(entry))
            if process is not None:
                found.append(process)
    return found


def end_sessions(sessions: Sequence[int]) -> None:
    """Kill every process of `sessions`, and wait until all are gone. Raises `ClusterError` E838 if one does not end."""
    until = time.monotonic() + END_S
    while living := members(sessions):
        _end(living, until)


def end_others_in_session() -> None:
    """Kill every process that is in the session of this one, but for this one; it does not wait for the last."""
    own = os.getpid()
    while others := [process for process in members([os.getsid(0)]) if process.pid != own]:
        for process in others:
            process.send(signal.SIGKILL)


def end_descendants() -> None:
    """Kill every process that this one, the parent of its orphans, has to answer for; E838 if one does not end."""
    until = time.monotonic() + END_S
    while living := [found for pid in descendants(os.getpid()) if (found := process_of(pid)) is not None]:
        _end(living, until)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def adopt_orphans() -> None:
    """From now on what loses its parent among the descendants of this process becomes its child."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> None:
    """The kernel sends this signal to the calling process when the thread that started it ends."""
    _control(_PR_SET_PDEATHSIG, signal_number)


def enter(namespaces: Iterable[str]) -> None:
    """Move the calling process, which has one thread, into the namespaces behind these files. Raises `OSError`."""
    folder = os.getcwd()
    for path in namespaces:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(fd, 0))
        finally:
            os.close(fd)
    os.chdir(folder)  # entering a mount namespace leads to its root


def is_inside(namespaces: Sequence[str]) -> bool:
    """Whether this process is in the network that the first of these files leads to."""
    return os.stat("/proc/self/ns/net").st_ino == os.stat(namespaces[0]).st_ino


def _end(living: Sequence[Process], until: float) -> None:
    left = end_all(living, until - time.monotonic())
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ClusterError("E838", "processes of a cluster do not end", got=pids, try_=f"kill -9 {pids}")


def _session_of(pid: str) -> int:
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    except OSError:  # it ended
        return 0
    return int(rest.split()[_SESSION_FIELD])


def _control(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
