"""A host: one process (here the user's own) in which tasks run. It starts workers and waits for their end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sage.runtime.worker import Event, Tell

if TYPE_CHECKING:  # asyncio takes 40 ms to import, so only hosts with async steps do
    from sage.runtime.eventloop import EventLoopThread


class Worker(Protocol):
    """What a host runs: a thread, or a stage on its event loop."""

    name: str
    task: str
    """The task that it works for; the last worker of a task in its host ends the task there."""
    first: bool
    """It opens the operators of its instance; the others only share them, and are started when the run begins."""

    def start(self, tell: Tell) -> None:
        """Begin to open; events go to `tell`, from any thread."""

    def go(self) -> None:
        """All workers of the run are open: begin."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if it has not ended in time."""


class Host:
    """Owns the workers' threads and the event loop of this process."""

    def __init__(self) -> None:
        self._workers: Sequence[Worker] = ()
        self._tell: Tell = _tell_nobody
        self._rest_started = False
        self._event_loop: EventLoopThread | None = None

    def event_loop(self) -> EventLoopThread:
        """The one event loop of the host."""
        if self._event_loop is None:
            from sage.runtime.eventloop import EventLoopThread

            self._event_loop = EventLoopThread()
        return self._event_loop

    def start(self, workers: Sequence[Worker], tell: Tell) -> None:
        """Start the workers that open something."""
        self._workers = workers
        self._tell = tell
        for worker in workers:
            if worker.first:
                worker.start(tell)

    def go(self) -> None:
        """Let the workers begin, sinks first, and start the others. After an abort they end at once."""
        rest, self._rest_started = not self._rest_started, True
        for worker in self._workers:
            worker.go()
        for worker in self._workers:
            if rest and not worker.first:
                worker.start(self._tell)

    def close(self, grace_s: float) -> list[str]:
        """Wait up to `grace_s` for all workers to end, then end the event loop. Returns who did not."""
        until = time.monotonic() + grace_s
        stuck = [worker.name for worker in self._workers if not worker.join(max(0.0, until - time.monotonic()))]
        if self._event_loop is not None:
            self._event_loop.close()
        return stuck


class Roster:
    """Which workers of a host are open, and which have ended. From any thread."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._lock = threading.Lock()
        self._unopened = {worker.name for worker in workers if worker.first}
        self._alive = {worker.name: worker.task for worker in workers}

    def opened(self, worker: str) -> bool:
        """True if this was the last one to open."""
        with self._lock:
            self._unopened.discard(worker)
            return not self._unopened

    def ended(self, worker: str) -> tuple[str | None, bool]:
        """The task that ended with this worker, if any; and whether it was the last worker at all."""
        with self._lock:
            task = self._alive.pop(worker)
            return None if task in self._alive.values() else task, not self._alive


def _tell_nobody(event: Event) -> None:
    """Before `start` there is nothing to tell."""
