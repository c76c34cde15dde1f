"""``sage run FILE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sage.cli.commands import debug_option, invocation_of, whole_number
from sage.cli.report import failure_as_json
from sage.cli.user_file import check_meant, executed, pipeline_of
from sage.cli.watching import Watcher
from sage.connectors.first import only_first
from sage.errors import SageError, UsageError
from sage.flow.pipeline import Pipeline
from sage.runtime.outcome import RunOptions, RunResult, Status
from sage.runtime.run import check_engine

FINISHED_WITH_DEAD_LETTERS = 8


@click.command("run")
@click.argument("file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
@click.option("--pipeline", metavar="NAME", help="Which pipeline of the file, where it holds several.")
@click.option("--engine", metavar="NAME", help="What runs it: local, or ray (a cluster).  [default: local]")
@click.option("--processes", callback=whole_number, metavar="N", help="Run what keeps a processor busy in N processes.")
@click.option("--address", metavar="HOST:PORT", help="ray: the cluster to join.  [default: a private one for this run]")
@click.option("--hosts", callback=whole_number, metavar="N", help="ray: processes in all.  [default: one a processor]")
@click.option(
    "--scheduler", metavar="NAME", help="Who places steps on nodes and gives out their work.  [default: adaptive]"
)
@click.option("--restarts", callback=whole_number, metavar="N", help="After lost hosts, begin again N times a minute.")
@click.option("--insecure-cluster", is_flag=True, help="ray: join a cluster that asks for no token.")
@click.option("--job-dir", metavar="DIR", help="Keep there what a run needs to go on where this one was cut off.")
@click.option("--reuse-results", "reuse", metavar="DIR", help="Share results of durable steps with other jobs, there.")
@click.option("--discard-step", "discard_steps", multiple=True, metavar="NAME", help="Forget the state of a lost step.")
@click.option(
    "--first", callback=whole_number, metavar="N", help="Only the first N records of each file, to try it out."
)
@click.option("--dead-letters", metavar="PATH", help="Where records go that fail for good.  [default: NAME.dead.jsonl]")
@click.option("--max-dead-letters", callback=whole_number, metavar="N", help="Fail when there are more.")
@click.option("--fail-on-dead-letters", is_flag=True, help="Exit with 8 when there are any.")
@click.option("--append", is_flag=True, help="Add to the outputs of an earlier run instead of replacing them.")
@click.option("--json", "to_json", is_flag=True, help="The result as JSON on standard output, and nothing else there.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--explain", is_flag=True, help="Say at the end who ran what and why, and where the time went.")
@debug_option
@click.pass_context
def run(
    context: click.Context,
    *,
    file: str,
    arguments: tuple[str, ...],
    pipeline: str | None,
    engine: str | None,
    processes: int | None,
    address: str | None,
    hosts: int | None,
    scheduler: str | None,
    restarts: int | None,
    insecure_cluster: bool,
    job_dir: str | None,
    reuse: str | None,
    discard_steps: tuple[str, ...],
    first: int | None,
    dead_letters: str | None,
    max_dead_letters: int | None,
    fail_on_dead_letters: bool,
    append: bool,
    to_json: bool,
    quiet: bool,
    explain: bool,
) -> None:
    """Run the pipeline of the Python file FILE.

    The file is executed as a program. If it calls sage.run itself, that runs with the options given here; if not, the
    pipeline in its variable `pipeline`, or the only one, is run. ARGUMENTS behind -- are for the file (sys.argv).

    \b
    sage run faq.py                  from the beginning
    sage run faq.py --first 20       tries it with 20 records
    sage run faq.py --job-dir job    goes on where it was cut off
    sage run faq.py --engine ray     the same on a cluster

    Ctrl-C stops cleanly: nothing more is read, and what is in flight is finished. A second one ends it at once.
    Outputs of a run that is stopped or fails are put aside, not in place. With --job-dir, the same command goes on.
    """
    check_engine(engine or "local")
    said = {
        "engine": engine or ("ray" if address is not None else None),
        "processes": processes,
        "address": address,
        "hosts": hosts,
        "scheduler": scheduler,
        "restarts": restarts,
        "insecure_cluster": insecure_cluster or None,
        "job_dir": Path(job_dir) if job_dir is not None else None,
        "reuse": Path(reuse) if reuse is not None else None,
        "discard_steps": frozenset(discard_steps) or None,
        "dead_letters": Path(dead_letters) if dead_letters is not None else None,
        "max_dead_letters": max_dead_letters,
        "append": append or None,
    }
    for option, path in (("--dead-letters", dead_letters), ("--job-dir", job_dir), ("--reuse-results", reuse)):
        if path == "":
            raise UsageError("E104", "the path is empty", at=option)
    if first == 0:
        raise UsageError("E104", "bad number", at="--first", got=0, expected="a whole number from 1 on")
    watcher = Watcher(invocation_of(context), quiet=quiet, explain=explain, json_to=sys.stdout if to_json else None)

    def runner(chosen: Pipeline, options: RunOptions) -> RunResult:
        check_meant(chosen, pipeline, file)
        return watcher.run(chosen if first is None else only_first(chosen, first), _with(options, said))

    try:
        with redirect_stdout(sys.stderr) if to_json else nullcontext(), executed(file, arguments, runner) as module:
            if not watcher.results:
                runner(pipeline_of(module, file, pipeline), RunOptions())
    except SageError as error:
        if to_json and not any(result.error is error for result in watcher.results):
            click.echo(failure_as_json(error))
        raise
    if fail_on_dead_letters and any(r.status is Status.SUCCEEDED_WITH_DEAD_LETTERS for r in watcher.results):
        context.exit(FINISHED_WITH_DEAD_LETTERS)


def _with(options: RunOptions, said: Mapping[str, Any]) -> RunOptions:
    """`options`, as the file gave them, with what the command line says instead."""
    return replace(options, **{name: value for name, value in said.items() if value is not None})
