"""The manager of many jobs: takes them in, starts each when there is a place for it, and sees how it ends.

It holds no process in its hands that it could lose: what it knows is on disk before it acts, and each act can be done
again. A manager that was killed is followed by one that reads the jobs, starts again what was about to start (a run
is begun once at most, see `sage.jobs.supervisor`), watches what runs, and settles what ended in between.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sage.clock import SYSTEM_CLOCK, Clock
from sage.errors import HostError, StorageError, UsageError
from sage.jobs.admission import Admission, Capacity, Taken, admit, forecast, shares
from sage.jobs.endpoints import GatewayFolder, Gateways
from sage.jobs.folder import StateFolder, touch, write_json
from sage.jobs.intake import completed
from sage.jobs.job import Job, JobSpec, new_id
from sage.jobs.outcome import last_line, outcome_of
from sage.jobs.queueing import needs_of
from sage.jobs.register import Register
from sage.jobs.revival import RETRY_S, Revival
from sage.jobs.states import ACTIVE, ENDS, Command, State, check_command
from sage.jobs.store import Store
from sage.jobs.supervision import Ended, Event, GatewayEnded, Supervisors, Told
from sage.processes import Process, end_all, marked

MOST_PENDING = 1000
MOST_BUSY = 5
"""How often a job is tried that says that a run of it is not over."""
KILL_GRACE_S = 2.0
"""For killed processes to be gone."""

Say = Callable[[str], None]
_Task = tuple[Callable[[Job], None], str]


class Manager:
    """All jobs of one state folder, which the caller has locked. Methods may be called from any thread; `run` is the
    one that acts, until `stop`. Jobs that run go on without it."""

    def __init__(
        self, folder: StateFolder, store: Store, *, capacity: Capacity, say: Say, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Raises `StorageError` if the stored jobs cannot be read."""
        self._folder = folder
        self._gateways = Gateways(folder)
        self.capacity = capacity
        self._say = say
        self._clock = clock
        self._lock = threading.RLock()
        self._register = Register(folder, store, say, clock)
        self._supervisors = Supervisors()
        self._revival = Revival(say, self._supervisors.wake, self._has_active)
        self._unfinished: list[_Task] = []
        self._busy: dict[str, int] = {}
        self._shares: dict[str, int | None] = {}
        self._foreseen: tuple[int, float, dict[str, float]] = -1, 0.0, {}
        self._stopped = False

    # --- for clients ---

    def jobs(self) -> list[Job]:
        """All of them, in the order in which they were submitted."""
        with self._lock:
            return list(self._register.jobs.values())

    def job(self, job: str) -> Job:
        """The one with this id. Raises `UsageError` E143 if there is none."""
        with self._lock:
            return self._register.job(job)

    def submit(self, spec: JobSpec, job: str | None = None) -> Job:
        """Take a job in. Submitting the same again under the same id, `job`, gives the job that there is.

        Raises `UsageError`: E145 if its file cannot be read or the id is another job's, E147 if it needs more than
        there is, E148 if too many wait; and `StorageError` E601 if there is no room on the disk.
        """
        spec = completed(spec)
        if never := Taken().lacks(needs_of(spec), self.capacity):
            raise UsageError(
                "E147", "the job needs more than there is for all jobs", got=never, try_="sage jobmanager start --help"
            )
        with self._lock:
            known = self._register.jobs.get(job or "")
            if known is not None:
                if known.spec != spec:
                    raise UsageError("E145", "another job has this id", at="id", got=job)
                return known
            waiting = len(self._register.due)
            if waiting >= MOST_PENDING:
                raise UsageError("E148", "too many jobs wait", got=waiting, expected=f"at most {MOST_PENDING}")
            made = Job(job or new_id(), spec, self._clock.wall())
            folder = self._folder.job(made.id)
            if folder.run(1).path.exists():
                raise UsageError("E145", "there is a folder of a job with this id", at="id", got=job)
            folder.remove()  # of a submission that was cut off
            try:
                folder.make(spec)
                touch(folder.lock)
                self._register.add(made)
            except BaseException:
                folder.remove()
                raise
            self._say(f"{made.id} {made.state}: {spec.file}")
            self._supervisors.wake()
            return made

    def command(self, command: Command, job: str) -> Job:
        """Carry out `command`. Raises `UsageError`: E143, E144 where the state forbids it, E149 (`resume`) while
        processes of the last run are there."""
        with self._lock:
            found = self.job(job)
            check_command(job, command, found.state)
            carry_out = {Command.STOP: self._stop, Command.RESUME: self._resume, Command.DELETE: self._delete}
            return carry_out[command](found)

    def limit(self, job: str, max_in_flight: int | None) -> Job:
        """Let `job` have so many records in flight; None: no limit of its own. Raises E143, E144 if it has ended."""
        with self._lock:
            found = self.job(job)
            if found.state in ENDS:
                raise UsageError("E144", "the job cannot be limited: it has ended", at=f"job {job}", got=found.state)
            limited = self._register.store_as(found, max_in_flight=max_in_flight or 0)
            self._share()
            return limited

    def share(self, job: str) -> int | None:
        """Records that a job which runs may have in flight; None: no limit."""
        with self._lock:
            return self._shares.get(job)

    def queue(self) -> Admission:
        """Who waits for what; `start` holds those that are about to start."""
        with self._lock:
            return admit(*self._register.candidates(), self.capacity)

    def forecast(self) -> dict[str, float]:
        """About how many seconds those that wait will wait still, as far as that can be said.

        Worked out anew when a job has changed, and when one should have started by now.
        """
        with self._lock:
            version, at, found = self._foreseen
            waited_s = self._clock.monotonic() - at
            if version != self._register.version or any(0 < wait_s <= waited_s for wait_s in found.values()):
                found, waited_s = forecast(*self._register.candidates(), self.capacity), 0.0
                self._foreseen = self._register.version, self._clock.monotonic(), found
            return {job: max(0.0, wait_s - waited_s) for job, wait_s in found.items()}

    # --- the thread that acts ---

    def run(self) -> None:
        """Find again what runs, then see to all jobs until `stop`."""
        with self._lock:
            for job in self.jobs():
                self._find_again(job)
            self._revive(self._gateways.all())
        wait_s: float | None = 0.0
        while not self._stopped:
            events = self._supervisors.wait(wait_s)
            with self._lock:
                wait_s = self._turn(events)

    def stop(self) -> None:
        """Have `run` return; from any thread, or from a signal handler."""
        self._stopped = True
        self._supervisors.wake()

    def close(self) -> None:
        """Let go of what is open, after `run` has returned."""
        self._supervisors.close()

    def _turn(self, events: Sequence[Event]) -> float | None:
        """See to what happened, and start what may start; how long to sleep then, in seconds."""
        self._revive([event.folder for event in events if isinstance(event, GatewayEnded)])
        tasks = [*map(self._task_of, (one for one in events if not isinstance(one, GatewayEnded))), *self._unfinished]
        self._unfinished = []
        self._unfinished += [task for task in tasks if not self._carried_out(*task)]
        decided = self.queue()
        started = [self._carried_out(partial(self._start, decided), job) for job in decided.start]
        self._share()
        for gateway in self._gateways.all():
            self._supervisors.watch_gateway(gateway)
        again = [RETRY_S] if self._unfinished or not all(started) else []
        return min([*self._register.next_due_s(), *again], default=None)

    def _revive(self, gateways: Sequence[GatewayFolder]) -> None:
        if self._has_active():
            self._revival.see_to(gateways)

    def _has_active(self) -> bool:
        with self._lock:
            return bool(self._register.active)

    def _task_of(self, event: Told | Ended) -> _Task:
        if isinstance(event, Told):
            return partial(self._heard, event.message), event.job
        return self._settle, event.job

    def _carried_out(self, handle: Callable[[Job], None], job: str) -> bool:
        """Whether it worked; what cannot be stored now is done again later."""
        found = self._register.jobs.get(job)
        try:
            if found is not None:
                handle(found)
        except StorageError as error:
            self._say(f"{job}: {error}")
            return False
        return True

    # --- a job's life ---

    def _start(self, decided: Admission, job: Job) -> None:
        """Store that it starts, and why now, and only then start it."""
        self._change(job, State.STARTING, decided.why(job.id), run=job.run + 1, abort=False, supervisor=None)
        self._unfinished.append((self._spawn, job.id))
        self._supervisors.wake()

    def _spawn(self, job: Job) -> None:
        """Done again for a run that is begun, it finds who sees to that."""
        try:
            self._supervisors.start(job.id, self._folder.job(job.id), job.run)
        except OSError as error:
            self._fail_to_start(job, str(error))

    def _heard(self, message: dict[str, Any], job: Job) -> None:
        folder = self._folder.job(job.id)
        if "supervisor" in message:
            self._runs(job, Process(**message["supervisor"]))
        elif "begun" in message:
            self._settle(job)
        elif "busy" in message and self._busy.get(job.id, 0) < MOST_BUSY:
            # one that was started a moment ago, by a manager that was killed, has not said yet that it is there
            self._busy[job.id] = self._busy.get(job.id, 0) + 1
            self._unfinished.append((self._spawn, job.id))
        elif "busy" in message:
            self._fail_to_start(job, "processes of an earlier run are still there")
        elif "failed" in message:
            self._fail_to_start(job, message["failed"])
        elif folder.run(job.run).path.exists():  # it was killed before it could say anything
            self._settle(job)
        else:
            self._fail_to_start(job, last_line(folder.log))

    def _runs(self, job: Job, supervisor: Process) -> None:
        self._busy.pop(job.id, None)
        if job.state is State.STARTING:
            self._change(job, State.RUNNING, supervisor=supervisor)
        else:
            self._register.store_as(job, supervisor=supervisor)
        self._watch(self._register.job(job.id))

    def _watch(self, job: Job) -> None:
        """Be told when its supervisor ends; and pass on to it that it was told to stop."""
        if job.supervisor is None or not self._supervisors.watch(job.id, job.supervisor):
            self._settle(job)
        elif job.state is State.STOPPING:
            self._send_stop(job)

    def _settle(self, job: Job) -> None:
        """How did it end? What is left of it ends too, or it could not be resumed."""
        folder = self._folder.job(job.id)
        state, reason = outcome_of(folder.run(job.run))
        if state is State.LOST:
            end_all([process for process, _ in marked(lambda path: path == str(folder.path))], KILL_GRACE_S)
        self._change(job, state, reason)

    def _fail_to_start(self, job: Job, why: str) -> None:
        at = str(self._folder.job(job.id).path)
        self._change(job, State.FAILED, str(HostError("E821", "the job cannot be started", at=at, got=why)))

    def _find_again(self, job: Job) -> None:
        """After the manager was started: what became of a job that was under way?"""
        if job.state in ACTIVE:
            self._unfinished.append((self._watch if job.supervisor is not None else self._spawn, job.id))

    def _share(self) -> None:
        """Tell those that run how many records each may have in flight, where that has changed."""
        running = {job.id: job for job in self._register.active}
        most = {job.id: own for job in running.values() if (own := _own_limit(job))}
        found = shares({job.id: job.spec.weight for job in running.values()}, most, self.capacity)
        for job, share in found.items():
            if self._shares.get(job) != share:
                with suppress(OSError):  # no room: the share of a moment ago stays, and every change is tried anew
                    write_json(self._folder.job(job).share, {"max_in_flight": share}, durable=False)
        self._shares = found

    # --- commands ---

    def _stop(self, job: Job) -> Job:
        if job.state is State.PENDING:
            self._change(job, State.CANCELLED)
        elif job.state is State.STOPPING:
            self._send_stop(self._register.store_as(job, abort=True))
        elif job.state in ACTIVE:
            self._change(job, State.STOPPING)
            self._send_stop(self._register.job(job.id))
        return self._register.job(job.id)

    def _send_stop(self, job: Job) -> None:
        """Nothing is lost where nobody is there yet: `_watch` sends it again."""
        if job.supervisor is not None:
            job.supervisor.send(signal.SIGUSR1 if job.abort else signal.SIGTERM)

    def _resume(self, job: Job) -> Job:
        folder = self._folder.job(job.id)
        if not folder.path.exists():
            raise UsageError("E149", "the folder of the job is gone", at=str(folder.path), try_="sage job submit")
        if folder.is_locked():
            raise UsageError(
                "E149", "processes of the last run are still there", at=f"job {job.id}", try_="sage jobmanager cleanup"
            )
        waits = self._register.wait_again(job)
        self._supervisors.wake()
        return waits

    def _delete(self, job: Job) -> Job:
        self._register.forget(job)
        self._folder.job(job.id).remove()
        self._say(f"{job.id} deleted")
        return job

    def _change(self, job: Job, state: State, reason: str = "", **values: Any) -> None:
        self._register.change(job, state, reason, **values)
        if state in ENDS:
            self._supervisors.wake()


def _own_limit(job: Job) -> int | None:
    return job.spec.max_in_flight if job.max_in_flight is None else job.max_in_flight
