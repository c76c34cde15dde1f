"""The jobs that a manager knows: each as it was stored last, and when those that wait may start."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sage.clock import Clock
from sage.errors import UsageError
from sage.jobs.admission import Running, Waiting
from sage.jobs.folder import StateFolder
from sage.jobs.job import Job
from sage.jobs.queueing import running_of, usual_run_s, waiting_of
from sage.jobs.states import ACTIVE, ENDS, State
from sage.jobs.store import Store


class Register:
    """Used under the lock of the manager. What it holds is never ahead of what the next manager will read."""

    def __init__(self, folder: StateFolder, store: Store, say: Callable[[str], None], clock: Clock) -> None:
        """Raises `StorageError` if the stored jobs cannot be read."""
        self._folder = folder
        self._store = store
        self._say = say
        self._clock = clock
        self.jobs = {job.id: job for job in store.jobs()}
        """In the order in which they were submitted."""
        self.due = {job.id: self._due_at(job) for job in self.jobs.values() if job.state is State.PENDING}
        """By job that waits: from when on it may start, on the monotonic clock."""
        self.version = 0
        """Another one after each change of a job."""

    def job(self, job: str) -> Job:
        """The one with this id. Raises `UsageError` E143 if there is none."""
        if job not in self.jobs:
            raise UsageError("E143", "there is no such job", got=job, try_="sage job list")
        return self.jobs[job]

    @property
    def active(self) -> list[Job]:
        """Those that have a place."""
        return [job for job in self.jobs.values() if job.state in ACTIVE]

    def add(self, job: Job) -> None:
        """A new one. Raises `StorageError`."""
        self._put(job)
        self.due[job.id] = self._due_at(job)

    def change(self, job: Job, state: State, reason: str = "", **values: Any) -> Job:
        """It is in another state from now on. Raises E144 where that may not follow, and `StorageError`."""
        changed = self._put(job.changed(state, self._clock.wall(), reason, **values))
        self._say(f"{job.id} {state}" + (f": {reason}" if reason else ""))
        if state is not State.PENDING:
            self.due.pop(job.id, None)
        if state in ENDS:
            with suppress(OSError):
                os.utime(self._folder.job(job.id).path)  # wakes those who wait for its log
        return changed

    def store_as(self, job: Job, **values: Any) -> Job:
        """The same state, with other values. Raises `StorageError`."""
        return self._put(replace(job, **values))

    def wait_again(self, job: Job) -> Job:
        """It waits, and not for its start delay. As `change`."""
        changed = self.change(job, State.PENDING)
        self.due[job.id] = 0.0
        return changed

    def forget(self, job: Job) -> None:
        """Raises `StorageError`."""
        self._store.delete(job.id)
        self.version += 1
        del self.jobs[job.id]
        self.due.pop(job.id, None)

    def candidates(self) -> tuple[list[Waiting], list[Running]]:
        """All that admission has to know."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        usual_s = usual_run_s(self.jobs.values())
        waiting = [waiting_of(self.jobs[job], wall, max(0.0, due - now), usual_s) for job, due in self.due.items()]
        return waiting, [running_of(job, wall, usual_s) for job in self.active]

    def next_due_s(self) -> list[float]:
        """Seconds until each start delay that is not over."""
        now = self._clock.monotonic()
        return [due - now for due in self.due.values() if due > now]

    def _put(self, job: Job) -> Job:
        self._store.put(job)
        self.jobs[job.id] = job
        self.version += 1
        return job

    def _due_at(self, job: Job) -> float:
        """A wall clock that jumped cannot make it longer."""
        delay_s = 0.0 if job.changes else job.spec.start_delay_s  # one that was resumed does not wait again
        left_s = job.submitted_at + delay_s - self._clock.wall()
        return self._clock.monotonic() + min(delay_s, max(0.0, left_s))
