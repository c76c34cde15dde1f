"""``python -m sage.jobs.supervisor FOLDER RUN``: the process that sees to one run of one job.

It outlives the manager, takes the lock of the job, starts the process that runs the pipeline, passes requests to stop
on to it, and writes down how it ended. What the job left running ends with it. A run is begun once at most, however
often a supervisor is started for it: the folder of the run can be made only once.

Signals: SIGTERM stops the pipeline cleanly, SIGUSR1 ends it at once; more of the same changes nothing. On standard
output it says one line of JSON, and closes it: ``{"supervisor": {...}}`` who sees to the run (itself, or the one that
was there before), ``{"begun": true}`` that the run was begun and is over, ``{"busy": true}`` that another run of the
job is not over, or ``{"failed": "..."}``.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sage.errors import HostError, SageError
from sage.jobs.endpoints import shared
from sage.jobs.folder import End, JobFolder, RunFolder, locked, read_json, storing, write_json
from sage.processes import MARK, descendants, memory_bytes, this_process
from sage.settings import inherit

ABORT_GRACE_S = 10.0
"""From the request to end at once until everything is killed."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
"""How numeric libraries learn how many threads to start: else in each process as many as there are processors."""
KILL_GRACE_S = 5.0
"""For killed processes to be gone."""
NOT_STARTED = 127
MOST_RESTARTS = 5
"""Of a run that is killed and has a job directory; then somebody should look."""
LOOK_EVERY_S = 0.25
"""At the memory of a job that has a limit."""
WEIGHT_OF_NICE = 1.25
"""What one step of nice is worth, in shares of a processor (Linux's own table)."""
OOM_SCORE = 300
"""Where the machine's memory runs out, the system ends jobs before the manager, their supervisors and the terminal."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)


def main(arguments: list[str]) -> None:
    """See to one run, to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    folder = JobFolder(Path(arguments[0]))
    run = folder.run(int(arguments[1]))
    try:
        with locked(folder.lock) as lock, storing(run.path):
            _see_to(folder, run, lock)
    except BlockingIOError:
        found = run.supervisor_of_it()
        _tell({"supervisor": asdict(found)} if found is not None and found.is_alive else {"busy": True})
    except (SageError, OSError) as error:
        _tell({"failed": str(error)})


def _see_to(folder: JobFolder, run: RunFolder, lock: int) -> None:
    try:
        run.path.mkdir(mode=0o700)
    except FileExistsError:
        _tell({"begun": True})
        return
    run.reserve()
    write_json(run.supervisor, asdict(this_process()))
    spec = read_json(folder.spec) or {}
    with shared(folder.state, folder.path.name, spec) as variables:
        _tell({"supervisor": asdict(this_process())})  # who is told can see the gateway
        inherit(variables)  # what was started up to here is not the job's own
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        os.putenv(MARK, str(folder.path))
        _limit_threads(spec.get("processors", 0.0))
        run.write_end(_run_to_the_end(folder, run, spec, lock))


def _limit_threads(processors: float) -> None:
    if processors:
        for name in THREADS:
            os.putenv(name, str(math.ceil(processors)))


def _run_to_the_end(folder: JobFolder, run: RunFolder, spec: dict[str, Any], lock: int) -> End:
    end = _run_it(folder, run, spec, lock)
    for _ in range(MOST_RESTARTS if spec.get("job_dir") else 0):
        if not _goes_on(run, end):
            break
        end = _run_it(folder, run, spec, lock)
    return end


def _goes_on(run: RunFolder, end: End) -> bool:
    """Whether the process was ended from outside: killed, or by Ray, which exits with 1 and not a word when the cluster
    of its driver is gone."""
    if end.stopped or end.memory_bytes:
        return False
    return end.code < 0 or (end.code == 1 and not run.read_results())


def _run_it(folder: JobFolder, run: RunFolder, spec: dict[str, Any], lock: int) -> End:
    """Run the pipeline once, in a process of its own."""
    try:
        child = subprocess.Popen(
            [spec.get("python") or sys.executable, "-u", "-P", "-m", "sage", "job", "execute", str(run.path)],
            cwd=spec["folder"], stdin=subprocess.DEVNULL, stdout=2, stderr=2, pass_fds=[lock],
            preexec_fn=partial(_in_child, spec.get("weight", 1.0)),  # noqa: PLW1509 -- this process has one thread
        )  # fmt: skip
    except (OSError, KeyError) as error:
        refused = HostError("E821", "the job cannot be started", at=str(folder.path), got=str(error))
        run.add_result(json.dumps({"error": {"code": refused.code, "text": str(refused)}}))
        return End(NOT_STARTED, stopped=False)
    end = _Watch(child.pid, spec.get("memory_bytes", 0)).to_the_end()
    child.returncode = end.code  # it was waited for
    return end


class _Watch:
    """One process, until it has ended."""

    def __init__(self, child: int, most_memory_bytes: int) -> None:
        self._child = child
        self._most_memory_bytes = most_memory_bytes
        self._memory_bytes = 0
        self._code: int | None = None
        self._told: list[int] = []
        self._kill_at: float | None = None

    def to_the_end(self) -> End:
        """See it to its end."""
        while self._code is None:
            received = _next_signal(self._until())
            if received is None and (self._kill_at is None or time.monotonic() < self._kill_at):
                self._look_at_memory()
            elif received is None:
                _kill(descendants(os.getpid()))
                self._kill_at = time.monotonic() + KILL_GRACE_S
            elif received == signal.SIGCHLD:
                self._reap()
            else:
                self._stop(at_once=received == signal.SIGUSR1)
        self._end_the_rest()
        return End(self._code, bool(self._told), self._memory_bytes)

    def _until(self) -> float | None:
        """When there is something to do, if no signal comes."""
        if not self._most_memory_bytes or self._memory_bytes:
            return self._kill_at
        look_at = time.monotonic() + LOOK_EVERY_S
        return look_at if self._kill_at is None else min(look_at, self._kill_at)

    def _look_at_memory(self) -> None:
        """Of all its processes. What uses too much gets no time to end in order: it would take more."""
        processes = descendants(os.getpid())
        used = memory_bytes(processes)
        if used > self._most_memory_bytes:
            self._memory_bytes = used
            _kill(processes)

    def _stop(self, *, at_once: bool) -> None:
        """Two different signals: two of the same kind may arrive as one."""
        for number in (signal.SIGTERM, signal.SIGINT) if at_once else (signal.SIGTERM,):
            if number not in self._told:
                self._told.append(number)
                _kill([self._child], number)
        if at_once and self._kill_at is None:
            self._kill_at = time.monotonic() + ABORT_GRACE_S

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._child:
                    self._code = os.waitstatus_to_exitcode(ended[1])

    def _end_the_rest(self) -> None:
        """This process inherits what its descendants leave behind, dead or alive."""
        self._reap()
        until = time.monotonic() + KILL_GRACE_S
        while left := descendants(os.getpid()):
            _kill(left)
            if _next_signal(until) is None:
                break
            self._reap()


def _next_signal(until: float | None) -> int | None:
    """The next of `_SIGNALS`; None if it does not come in time."""
    if until is None:
        return signal.sigwaitinfo(_SIGNALS).si_signo
    found = signal.sigtimedwait(_SIGNALS, max(0.0, until - time.monotonic()))
    return None if found is None else found.si_signo


def _kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _in_child(weight: float) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(PermissionError):  # only root may be more than others
        os.setpriority(os.PRIO_PROCESS, 0, max(-20, min(19, round(-math.log(weight, WEIGHT_OF_NICE)))))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _tell(message: dict[str, Any]) -> None:
    """Say it to the manager, if that is there still, and close standard output."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    main(sys.argv[1:])
