"""A host as an actor of Ray, which starts and ends it; what it is to do, and the records, come over its own links."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sage import settings
from sage.queues import SharedMemoryQueueDescriptor
from sage.queues.remote.server import QueueServer
from sage.runtime.hosted import HostProgram
from sage.runtime.messages import Link, Parcel, Printed, Setup, SocketLink
from sage.runtime.ray_door import knock
from sage.runtime.ray_link import Address, CallsWay, ControlWay, reaches, serve


class RayHost:
    """The class of the actors. Each is used for one run, by its driver alone."""

    def __init__(self) -> None:
        self._server: QueueServer
        self._near: SocketLink | None = None

    def listen(self, key: str, driver: Address, door: str) -> tuple[Address, bool]:
        """Where this host will serve its queues; and whether it reaches those of the driver."""
        address, self._server = serve(key)
        if address.machine == driver.machine:
            self._near = knock(door, driver.process)
        return address, reaches(driver)

    def own(self, memory: SharedMemoryQueueDescriptor) -> None:
        """Make a queue here, and serve it."""
        queue: Any = memory.create()
        self._server.serve(memory.queue_id, queue)

    def run(self, control: ControlWay | CallsWay | None, plan: Parcel) -> str:
        """Be a host, to the end of the run or of the link to the driver: that of `listen` where there is no `control`.

        Returns why the link ended, if it did and that is known.
        """
        link = self._near if control is None else control.open()
        assert link is not None
        setup = link.receive()
        if not isinstance(setup, Setup):
            return link.why
        self._settle_in(setup)
        output = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Told(link, is_error=False), _Told(link, is_error=True)
        try:
            HostProgram(link, replace(setup, plan=plan)).run()
        finally:
            sys.stdout, sys.stderr = output
        with suppress(OSError):
            link.flush()
        link.close()
        return link.why

    def _settle_in(self, setup: Setup) -> None:
        """See what the driver sees, as far as this machine has it."""
        found = [path for path in setup.search_path if path not in sys.path and os.path.exists(path)]
        sys.path[:0] = found
        settings.inherit(setup.settings)
        if os.path.isdir(setup.folder):
            os.chdir(setup.folder)


class _Told(io.TextIOBase):
    """What is printed here is printed by the driver, line by line."""

    def __init__(self, link: Link, *, is_error: bool) -> None:
        self._link = link
        self._is_error = is_error
        self._lock = threading.Lock()
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._tell(whole + newline)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self._tell(begun)

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # the driver is gone
            self._link.send(Printed(text, self._is_error))
