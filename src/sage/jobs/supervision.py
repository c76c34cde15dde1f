"""The supervisors of jobs, as their manager has them: started, heard, and waited for."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sage.jobs.endpoints import GatewayFolder
from sage.jobs.folder import JobFolder
from sage.private import opener
from sage.processes import Process, announcement_in

MAX_TOLD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Told:
    """A supervisor that was just started has said this (see `sage.jobs.supervisor`), or nothing."""

    job: str
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The supervisor of this job is gone."""

    job: str


@dataclass(frozen=True, slots=True)
class GatewayEnded:
    """The gateway in this folder is gone."""

    folder: GatewayFolder


Event = Told | Ended | GatewayEnded


class Supervisors:
    """Belongs to one thread; `wake` may be called from any, and from a signal handler."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._said: dict[str, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._gateways: set[Process] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)

    def start(self, job: str, folder: JobFolder, run: int) -> None:
        """Start one; `wait` tells what it says. For a run that is begun, it says who sees to that. Raises OSError."""
        with open(folder.log, "ab", opener=opener) as log:
            started = subprocess.Popen(
                [sys.executable, "-P", "-m", "sage.jobs.supervisor", str(folder.path), str(run)],
                cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert started.stdout is not None
        self._started[job], self._said[job] = started, b""
        os.set_blocking(started.stdout.fileno(), False)
        self._selector.register(started.stdout, selectors.EVENT_READ, lambda: self._told(job))

    def watch(self, job: str, process: Process) -> bool:
        """Have `wait` tell when the supervisor `process` ends; False if it has already."""
        fd = process.open()
        if fd is None:
            self._reap(job)
            return False
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._ended(job, fd))
        return True

    def watch_gateway(self, gateway: GatewayFolder) -> None:
        """Have `wait` tell when it ends, if it lives and nobody does already."""
        process = gateway.process()
        if process is None or process in self._gateways or (fd := process.open()) is None:
            return
        self._gateways.add(process)
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._gateway_ended(gateway, process, fd))

    def wait(self, timeout_s: float | None) -> list[Event]:
        """What has happened; empty when the time is over, or at `wake`."""
        ready: list[Callable[[], Event | None]] = [key.data for key, _ in self._selector.select(timeout_s)]
        return [event for look in ready if (event := look()) is not None]

    def wake(self) -> None:
        """Have `wait` return."""
        with suppress(OSError):  # closed: nobody waits any more
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Let go of them; they go on."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
        self._selector.close()
        for started in self._started.values():
            assert started.stdout is not None
            started.stdout.close()
            started.returncode = 0  # nobody waits for it

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _told(self, job: str) -> Told | None:
        started = self._started[job]
        assert started.stdout is not None
        piece = started.stdout.read(MAX_TOLD_BYTES)
        self._said[job] += piece or b""
        message, _ = announcement_in(self._said[job])
        if message is None and piece != b"":
            return None
        message = message or {}
        del self._said[job]
        self._selector.unregister(started.stdout)
        started.stdout.close()
        if message.get("supervisor", {}).get("pid") != started.pid:
            self._started.pop(job).wait()  # it has nothing more to do
        return Told(job, message)

    def _gateway_ended(self, gateway: GatewayFolder, process: Process, fd: int) -> GatewayEnded:
        self._selector.unregister(fd)
        os.close(fd)
        self._gateways.discard(process)
        return GatewayEnded(gateway)

    def _ended(self, job: str, fd: int) -> Ended:
        self._selector.unregister(fd)
        os.close(fd)
        self._reap(job)
        return Ended(job)

    def _reap(self, job: str) -> None:
        started = self._started.pop(job, None)
        if started is not None:
            started.wait()
