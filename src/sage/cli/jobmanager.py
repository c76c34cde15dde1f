"""``sage jobmanager``: the process that runs many pipelines at once."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

import click

from sage import settings
from sage.cli.commands import Group, debug_option, size_bytes, whole_number
from sage.cli.detached import start_detached
from sage.cli.figures import clock
from sage.cli.stderr import say
from sage.errors import HostError, StorageError, UsageError, shorten
from sage.jobs import machine
from sage.jobs.admission import Capacity
from sage.jobs.cleanup import Leftover, leftovers
from sage.jobs.client import Client
from sage.jobs.daemon import DEFAULT_MAX_RUNNING, manager_of, serve
from sage.jobs.folder import StateFolder, storing, touch
from sage.jobs.store import Store
from sage.queues.peers import nobody_is_there
from sage.queues.shared_memory_file import FOLDER, path_of

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
MOST_AT_ONCE = 1000
LOG_BYTES = 4 << 20
"""A log of the manager that is larger is begun anew, when the manager is."""


@click.group("jobmanager", cls=Group)
def jobmanager() -> None:
    """Start, stop and clean up the manager of many jobs."""


@jobmanager.command("start")
@click.option(
    "--max-jobs", callback=whole_number, default=str(DEFAULT_MAX_RUNNING), show_default=True, metavar="N",
    help="How many run at once; the others wait.",
)  # fmt: skip
@click.option("--max-jobs-per-user", callback=whole_number, metavar="N", help="Of one user at once (--user of a job).")
@click.option(
    "--processors", callback=whole_number, metavar="N", help="For jobs that say how many they need.  [default: all]"
)
@click.option("--memory", callback=size_bytes, metavar="SIZE", help="For jobs that say how much.  [default: all]")
@click.option("--places", callback=whole_number, metavar="N", help="Calls in flight at endpoints, of jobs that say it.")
@click.option("--in-flight", callback=whole_number, metavar="N", help="Records in flight, shared by the jobs that run.")
@click.option(
    "--port", callback=whole_number, metavar="PORT",
    help="Answer on this port of 127.0.0.1 too, to those who know the token. 0: any that is free.",
)  # fmt: skip
@click.option("--foreground", is_flag=True, help="Be the manager, until Ctrl-C, instead of starting one.")
@click.option("--detached", is_flag=True, hidden=True)
@debug_option
def start(
    *,
    max_jobs: int,
    max_jobs_per_user: int | None,
    processors: int | None,
    memory: int | None,
    places: int | None,
    in_flight: int | None,
    port: int | None,
    foreground: bool,
    detached: bool,
) -> None:
    """Start the job manager.

    It outlives the terminal. Jobs outlive it: when it is started again, it finds those that run.
    """
    if not 1 <= max_jobs <= MOST_AT_ONCE:
        raise UsageError("E104", "bad number", at="--max-jobs", got=max_jobs, expected=f"1 to {MOST_AT_ONCE}")
    for option, number in (("--max-jobs-per-user", max_jobs_per_user), ("--in-flight", in_flight)):
        if number == 0:
            raise UsageError("E104", "bad number", at=option, got=0, expected="a whole number from 1 on")
    folder = state_folder()
    if not (foreground or detached):
        said = {
            "--max-jobs": max_jobs,
            "--max-jobs-per-user": max_jobs_per_user,
            "--processors": processors,
            "--memory": memory,
            "--places": places,
            "--in-flight": in_flight,
            "--port": port,
        }
        _start_another(folder, [f"{option}={value}" for option, value in said.items() if value is not None])
        return
    capacity = Capacity(
        max_jobs,
        max_jobs_per_user,
        machine.processors() if processors is None else processors,
        machine.memory_bytes() if memory is None else memory,
        places,
        in_flight,
    )

    def ready(port: int | None) -> None:
        if detached:
            click.echo(json.dumps({"process": os.getpid(), "port": port}))
            sys.stdout.flush()
            _write_to_log(folder)
        else:
            say(_running(folder, os.getpid(), port))

    serve(folder, capacity=capacity, port=port, say=_log, ready=ready)


@jobmanager.command("stop")
@debug_option
def stop() -> None:
    """Stop the job manager. Jobs that run go on, and those that wait do so until it is started again."""
    process = manager_of(state_folder())
    fd = process.open() if process is not None else None
    if process is None or fd is None:
        say("no job manager runs")
        return
    try:
        process.send(signal.SIGTERM)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(STOP_TIMEOUT_S * 1000):
            raise HostError(
                "E823", "the job manager does not end", at=f"process {process.pid}", try_=f"kill -9 {process.pid}"
            )
    finally:
        os.close(fd)
    say("the job manager has stopped; jobs that run go on")


@jobmanager.command("status")
@click.option("--json", "to_json", is_flag=True, help="One JSON object on standard output.")
@debug_option
def status(to_json: bool) -> None:
    """Say whether the job manager runs, and how many jobs it has. Exits with 2 if none runs."""
    found = Client(state_folder()).status()
    if to_json:
        click.echo(json.dumps(found))
        return
    jobs = ", ".join(f"{number} {state.lower()}" for state, number in found["jobs"].items()) or "none"
    click.echo(f"process {found['pid']}, SAGE {found['version']}, up {clock(found['up_s'])}")
    click.echo(f"  jobs: {jobs}; {found['running']} of at most {found['max_running']} at once")
    click.echo(f"  folder: {found['folder']}")


@jobmanager.command("cleanup")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="List only.")
@debug_option
def cleanup(yes: bool, dry_run: bool) -> None:
    """Remove what dead job managers and jobs left behind.

    Processes that belong to jobs nobody sees to, folders of no job, sockets and temporary files in the folder of the
    job manager, and memory of queues whose processes are all dead. Jobs that run are left alone.
    """
    folder = state_folder()
    found = _all_leftovers(folder)
    for one in found:
        click.echo(f"{one.kind:<24}{shorten(one.what, 300)}")
    if not found:
        say("nothing was left behind")
        return
    if dry_run or not (yes or _agreed(len(found))):
        say("nothing was removed")
        return
    for one in found:
        one.remove()
    names = {(one.kind, one.what) for one in found}
    left = [one for one in _all_leftovers(folder) if (one.kind, one.what) in names]
    if left:
        raise StorageError("E614", "some of it could not be removed", got=", ".join(one.what for one in left))
    say(f"removed {len(found)}; nothing of it is left")


def state_folder() -> StateFolder:
    """That of this user, as the settings have it."""
    return StateFolder(settings.load().data_dir)


def _all_leftovers(folder: StateFolder) -> list[Leftover]:
    folder.check()
    return leftovers(folder, partial(_known, folder)) + _memory_of_the_dead()


def _known(folder: StateFolder) -> set[str]:
    """The ids of all jobs: the manager's, or if there is none, those that are stored."""
    if manager_of(folder) is not None:
        return {job["id"] for job in Client(folder).list()}
    if not folder.database.exists():
        return set()
    with closing(Store(folder.database)) as store:
        return {job.id for job in store.jobs()}


def _agreed(number: int) -> bool:
    say(f"remove {number}? [y/N] ", end="")
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if sys.stdin is None or not sys.stdin.isatty():
        say("")
    return answer.strip().lower() in ("y", "yes")


def _start_another(folder: StateFolder, options: Sequence[str]) -> None:
    """Start the manager in a process of its own, and wait until it answers or has said why not."""
    command = ["jobmanager", "start", "--detached", *options]
    found = start_detached("the job manager", command, START_TIMEOUT_S)
    say(_running(folder, found["process"], found["port"]))


def _running(folder: StateFolder, process: int, port: int | None) -> str:
    at = "" if port is None else f", http://127.0.0.1:{port} (its token is in {folder.token})"
    return f"the job manager runs: process {process}, {folder.path}{at}"


def _write_to_log(folder: StateFolder) -> None:
    """From now on, what is said goes to the log of the manager."""
    with storing(folder.log):
        touch(folder.log)
        how = os.O_WRONLY | os.O_APPEND | (os.O_TRUNC if folder.log.stat().st_size > LOG_BYTES else 0)
        log = os.open(folder.log, how | os.O_CLOEXEC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _log(text: str) -> None:
    say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shorten(text, 1000)}")


def _memory_of_the_dead() -> list[Leftover]:
    """Queues between processes that are all dead."""
    found = []
    for path in FOLDER.glob(path_of("*").name):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone meanwhile
            continue
        with open(fd, "rb"):
            if os.fstat(fd).st_uid == os.geteuid() and nobody_is_there(fd):
                found.append(Leftover("memory of a dead queue", str(path), partial(path.unlink, missing_ok=True)))
    return found
