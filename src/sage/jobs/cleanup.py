"""What dead managers and jobs left behind: found, removed, and looked for again.

Nothing is found by its name: a process belongs to a job if it inherited the job's mark and nobody sees to that job any
more; a file, if it lies in the state folder. Jobs that run are left alone, and so is the gateway that they ask.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sage.jobs.daemon import manager_of
from sage.jobs.endpoints import GatewayFolder, Gateways
from sage.jobs.folder import TEMPORARY, JobFolder, StateFolder, locked
from sage.processes import end_all, marked

KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that can be removed."""

    kind: str
    what: str
    """The path, or the process and the job that it belongs to."""
    remove: Callable[[], object]


def leftovers(folder: StateFolder, jobs: Callable[[], Collection[str]]) -> list[Leftover]:
    """All that was left behind in `folder` and by its jobs; `jobs` gives the ids of the jobs that there are."""
    found = _processes(folder)
    if not folder.path.exists():
        return found
    ids = folder.ids()
    known = jobs()  # asked afterwards: the folder of a job that is being submitted is none of nobody's
    for job in ids:
        if job not in known and not _is_seen_to(folder.job(job)):
            found.append(Leftover("folder of no job", str(folder.job(job).path), folder.job(job).remove))
    if manager_of(folder) is None:
        found += [_of_no_manager("socket", folder.socket, folder), _of_no_manager("note", folder.manager, folder)]
        found += [_of_no_manager("temporary file", path, folder) for path in folder.path.glob(f"*{TEMPORARY}")]
    found += _of_gateways(folder)
    for job in known:
        if not _is_seen_to(folder.job(job)):
            found += [_file("temporary file", path) for path in folder.job(job).path.rglob(f"*{TEMPORARY}")]
    return [one for one in found if one.kind == "process" or os.path.lexists(one.what)]


def _processes(folder: StateFolder) -> list[Leftover]:
    jobs = str(folder.jobs)

    def is_left(path: str) -> bool:
        return os.path.dirname(path) == jobs and not _is_seen_to(JobFolder(Path(path)))

    return [
        Leftover(
            "process", f"{process.pid} of job {os.path.basename(path)}", partial(end_all, [process], KILL_TIMEOUT_S)
        )
        for process, path in marked(is_left)
    ]


def _is_seen_to(job: JobFolder) -> bool:
    """Whether a supervisor of the job is alive."""
    with suppress(FileNotFoundError):
        for name in os.listdir(job.path):
            if name.isdigit():
                supervisor = job.run(int(name)).supervisor_of_it()
                if supervisor is not None and supervisor.is_alive:
                    return True
    return False


def _of_gateways(folder: StateFolder) -> list[Leftover]:
    """The folders of gateways, where nobody is left who uses one; else keys of jobs that nobody sees to."""
    gateways = Gateways(folder)
    with gateways.unused() as unused:
        if unused:
            return [_gateway(gateways, gateway) for gateway in gateways.all()]
    keys = [(path, job) for gateway in gateways.all() for path, job in gateway.jobs().items()]
    return [_file("key of no job", path) for path, job in keys if not _is_seen_to(folder.job(job))]


def _gateway(gateways: Gateways, gateway: GatewayFolder) -> Leftover:
    def remove() -> None:
        with gateways.unused() as unused:
            if unused:
                shutil.rmtree(gateway.path)

    return Leftover("folder of a dead gateway", str(gateway.path), remove)


def _file(kind: str, path: Path) -> Leftover:
    return Leftover(kind, str(path), partial(path.unlink, missing_ok=True))


def _of_no_manager(kind: str, path: Path, folder: StateFolder) -> Leftover:
    """A file that only a manager makes; removed if none has been started meanwhile."""

    def remove() -> None:
        with suppress(BlockingIOError), locked(folder.lock):
            path.unlink(missing_ok=True)

    return Leftover(kind, str(path), remove)
