"""Processes of this machine, known by more than a number that another process may get. Linux only."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "SAGE_JOB_FOLDER"
"""The variable that every process of a job inherits: it holds the folder of the job."""
_STARTED_FIELD = 19
"""Of ``/proc/PID/stat``, counted behind the name; in ticks since the machine started."""
_CREDENTIALS = struct.Struct("3i")  # process, user, group


@dataclass(frozen=True, slots=True)
class Process:
    """One process, and no other that has its number later."""

    pid: int
    started: int
    boot: str

    @property
    def is_alive(self) -> bool:
        """Whether it runs still: a zombie does not."""
        found = process_of(self.pid)
        return found == self

    def open(self) -> int | None:
        """A pidfd of it, to be closed by the caller: readable when the process has ended. None if it has already."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive:
            return fd
        os.close(fd)
        return None

    def send(self, number: int) -> bool:
        """Send a signal; False if the process is gone."""
        fd = self.open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it has not in time."""
        fd = self.open()
        if fd is None:
            return True
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(fd)


def process_of(pid: int) -> Process | None:
    """The process that has this number now, if one does that has not ended."""
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    except OSError:
        return None
    fields = rest.split()
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, int(fields[_STARTED_FIELD]), _boot())


def this_process() -> Process:
    """The one that asks."""
    found = process_of(os.getpid())
    assert found is not None
    return found


def at_other_end(end: socket.socket) -> tuple[int, int]:
    """The process at the other end of a socket of this machine, and its user, as the kernel knows them."""
    process, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return process, user


def end_all(processes: Iterable[Process], timeout_s: float) -> list[Process]:
    """Kill `processes`, and wait until they are gone; those that are not in time."""
    poll = select.poll()
    waiting: dict[int, Process] = {}
    for process in processes:
        fd = process.open()
        if fd is not None:
            waiting[fd] = process
            poll.register(fd, select.POLLIN)
            process.send(signal.SIGKILL)
    until = time.monotonic() + timeout_s
    while waiting and (left_s := until - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            os.close(fd)
            del waiting[fd]
    for fd in waiting:
        os.close(fd)
    return list(waiting.values())


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children, and so on."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = list(_children(waiting.pop()))
        found += children
        waiting += children
    return found


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes have for themselves, swapped out or not; memory that they share with others is not in it."""
    found = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
        except OSError:  # it has ended
            continue
        found += sum(int(line.split()[1]) for line in lines if line.startswith((b"RssAnon:", b"VmSwap:")))
    return found * 1024


def marked(belongs: Callable[[str], bool]) -> list[tuple[Process, str]]:
    """Processes of this user that carry the mark of a job, with its folder, where `belongs` says so of the folder."""
    found = []
    prefix = f"{MARK}=".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone
            continue
        folder = next((os.fsdecode(one[len(prefix) :]) for one in environment if one.startswith(prefix)), None)
        process = process_of(int(entry.name))
        if folder is not None and process is not None and belongs(folder):
            found.append((process, folder))
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def announced(fd: int, timeout_s: float) -> tuple[dict[str, Any] | None, str]:
    """The line of JSON that a process says on its output `fd` when it is ready, and what else was said up to there.

    None instead of it: the output was closed. Raises TimeoutError, with what was said.
    """
    until = time.monotonic() + timeout_s
    said = b""
    while select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(fd, 65_536)
        said += piece
        found, rest = announcement_in(said)
        if found is not None or not piece:
            return found, rest
    raise TimeoutError(said.decode("utf-8", "replace"))


def announcement_in(said: bytes) -> tuple[dict[str, Any] | None, str]:
    """As `announced`. The loader, the interpreter and libraries may say something before it."""
    lines = said.decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("{"):
            with suppress(ValueError):
                return json.loads(line), "\n".join([*lines[:number], *lines[number + 1 :]])
    return None, "\n".join(lines)
