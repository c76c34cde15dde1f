"""``sage job``: pipelines that the job manager runs."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from sage.cli.commands import Group, debug_option, size_bytes, whole_number
from sage.cli.figures import line_width
from sage.cli.files import check_file
from sage.cli.job_directory import bill, repair, verify
from sage.cli.job_report import described, exit_code_of, explained, snapshot_of, table
from sage.cli.jobmanager import state_folder
from sage.cli.progress import view_for
from sage.cli.run_options import PATHS, run_options
from sage.cli.stderr import say
from sage.cli.submitted import execute
from sage.errors import SageError, UsageError
from sage.jobs.client import Client
from sage.jobs.job import BANDS, DEFAULT_BAND, MAX_DELAY_S
from sage.jobs.states import ENDS, State

LOOK_EVERY_S = 0.5
_ID_OPTION = click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
_JSON_OPTION = click.option("--json", "to_json", is_flag=True, help="JSON on standard output.")


@click.group("job", cls=Group)
def job() -> None:
    """Submit pipelines to the job manager, and see to them. (sage jobmanager start starts it.)"""


job.add_command(execute)
job.add_command(verify)
job.add_command(repair)
job.add_command(bill)


def _delay(context: click.Context, parameter: click.Parameter, value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) or float(value) > MAX_DELAY_S:
        expected = f"seconds, 0 to {MAX_DELAY_S:.0f}"
        raise UsageError("E104", "bad number", at=parameter.opts[0], got=repr(value), expected=expected)
    return float(value)


def _number(context: click.Context, parameter: click.Parameter, value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value):
        raise UsageError("E104", "bad number", at=parameter.opts[0], got=repr(value), expected="as 2, or 0.5")
    return float(value)


@job.command("submit")
@click.argument("file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
@click.option("--name", default="", metavar="NAME", help="For people.  [default: that of the file]")
@click.option(
    "--priority", callback=whole_number, default=str(DEFAULT_BAND), show_default=True, metavar="N",
    help=f"0 goes first, {BANDS - 1} last.",
)  # fmt: skip
@click.option(
    "--start-delay", "start_delay_s", callback=_delay, default="0", metavar="SECONDS",
    help="Wait so long before it starts.",
)  # fmt: skip
@click.option("--user", default="", metavar="NAME", help="For whom it runs; quotas are by this.  [default: you]")
@click.option("--weight", callback=_number, default="1", metavar="W", help="Its share beside others of weight 1.")
@click.option("--processors", callback=_number, default="0", metavar="N", help="That it keeps busy, and waits for.")
@click.option(
    "--memory", "memory_bytes", callback=size_bytes, default="0", metavar="SIZE",
    help="Waits for so much; ended beyond it.",
)  # fmt: skip
@click.option(
    "--places", callback=whole_number, default="0", metavar="N", help="Calls at endpoints that it makes at once."
)
@click.option(
    "--in-flight", "max_in_flight", callback=whole_number, metavar="N", help="Records read and not finished at most."
)
@click.option(
    "--own-endpoints", "shared_endpoints", flag_value=False, default=True,
    help="Ask endpoints directly, beside the gateway that jobs share.",
)  # fmt: skip
@run_options
@_JSON_OPTION
@debug_option
def submit(*, file: str, arguments: tuple[str, ...], to_json: bool, **said: Any) -> None:
    """Have the job manager run the pipeline of the Python file FILE. Prints the id of the job.

    It runs in the current directory with this Python, but with the environment of the job manager. What it writes goes
    to its log (sage job logs).
    """
    check_file(file, "Python file", (".py",))
    paths = {name: os.path.abspath(said[name]) for name in PATHS if said[name] is not None}
    here = {"file": os.path.abspath(file), "folder": os.getcwd(), "python": sys.executable}
    made = Client(state_folder()).submit({**said, **paths, **here, "arguments": arguments})
    click.echo(json.dumps(made) if to_json else made["id"])


@job.command("list")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only these; may be given several times.")
@_JSON_OPTION
@debug_option
def list_jobs(states: tuple[str, ...], to_json: bool) -> None:
    """List all jobs: those that run with their figures, those that wait with their place in the queue."""
    chosen = {_state(name) for name in states} or set(State)
    jobs = [found for found in Client(state_folder()).list() if found["state"] in chosen]
    if to_json:
        click.echo(json.dumps({"jobs": jobs}))
    elif jobs:
        click.echo("\n".join(table(jobs, line_width())))
    else:
        say("there are no jobs" + (" in this state" if states else ""))


@job.command("show")
@click.argument("job_id", metavar="JOB")
@click.option("--why", is_flag=True, help="Why it is where it is: the queue, its start, its share, what holds it up.")
@_JSON_OPTION
@debug_option
def show(job_id: str, why: bool, to_json: bool) -> None:
    """Show all about a job: what was submitted, what happened to it, its figures."""
    with _asking(job_id) as client:
        found = client.show(job_id)
        jobs = client.list() if why else []
    if to_json:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join([*described(found), *(explained(found, jobs) if why else ())]))


@job.command("limit")
@click.argument("job_id", metavar="JOB")
@click.option("--in-flight", required=True, callback=whole_number, metavar="N", help="0: no limit of its own.")
@debug_option
def limit(job_id: str, in_flight: int) -> None:
    """Let a job have so many records in flight from now on, also while it runs."""
    with _asking(job_id) as client:
        client.limit(job_id, in_flight or None)
    say(f"{job_id} may have {in_flight or 'any number of'} records in flight")


@job.command("logs")
@click.argument("job_id", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@debug_option
def logs(job_id: str, follow: bool) -> None:
    """Print what a job wrote. On a terminal, characters that would steer it are shown instead."""
    clean = _shown if sys.stdout.isatty() else str
    with _asking(job_id) as client, suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
        for piece in client.log(job_id, follow=follow):
            click.echo(clean(piece), nl=False)
            sys.stdout.flush()


@job.command("stop")
@_ID_OPTION
@debug_option
def stop(jobs: tuple[str, ...]) -> None:
    """Stop jobs cleanly: they read no more, and finish what is in flight. A second time ends them at once."""
    for one in jobs:
        with _asking(one) as client:
            before = State(client.show(one)["state"])
            found = client.stop(one)
        if before in ENDS:
            say(f"{one} has ended already: {found['state']}")
        elif before is State.STOPPING:
            say(f"{one} is told to end at once")
        else:
            say(f"{one} is {found['state']}")


@job.command("resume")
@_ID_OPTION
@debug_option
def resume(jobs: tuple[str, ...]) -> None:
    """Run jobs again that failed, were stopped or lost. One with a job directory goes on; others begin anew."""
    for one in jobs:
        with _asking(one) as client:
            client.resume(one)
            goes_on = client.show(one)["spec"]["job_dir"] is not None
        say(f"{one} waits for its turn; it {'goes on' if goes_on else 'begins from the start'}")


@job.command("delete")
@_ID_OPTION
@debug_option
def delete(jobs: tuple[str, ...]) -> None:
    """Delete jobs that do not run, with their folders: log, results and dead letters kept there. Outputs stay."""
    for one in jobs:
        with _asking(one) as client:
            client.delete(one)
        say(f"{one} is deleted")


@job.command("watch")
@click.argument("job_id", metavar="JOB")
@debug_option
@click.pass_context
def watch(context: click.Context, job_id: str) -> None:
    """Show a job until it has ended, and exit as sage run would have. Ctrl-C ends the showing, not the job."""
    pause = threading.Event()
    with _asking(job_id) as client, suppress(KeyboardInterrupt):
        found = client.show(job_id)
        with view_for(quiet=False) as view:
            while found["state"] not in ENDS:
                snapshot = snapshot_of(found)
                if snapshot is not None:
                    view.show(snapshot)
                pause.wait(LOOK_EVERY_S)
                found = client.show(job_id)
        click.echo("\n".join(described(found)))
        context.exit(exit_code_of(found))


@contextmanager
def _asking(given: str) -> Iterator[Client]:
    """A client; what it says about the id `given` names the job that may have been meant."""
    client = Client(state_folder())
    try:
        yield client
    except SageError as error:
        if error.code not in ("E142", "E143"):
            raise
        raise UsageError(
            error.code, error.what, at=error.at, got=given, expected=error.expected, try_=_near(client, given)
        ) from error


def _near(client: Client, given: str) -> str:
    names = {name: found["id"] for found in client.list() for name in (found["name"], found["id"])}
    near = difflib.get_close_matches(given[:100], names, n=1)
    return (
        f"{names[near[0]]}, which is {near[0]}"
        if near and near[0] != names[near[0]]
        else (near or ["sage job list"])[0]
    )


def _state(name: str) -> State:
    try:
        return State(name.upper())
    except ValueError:
        near = difflib.get_close_matches(name[:100].upper(), list(State), n=1)
        raise UsageError(
            "E104", "there is no such state", at="--state", got=name, expected=", ".join(State),
            try_=str(near[0]) if near else None,
        ) from None  # fmt: skip


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
