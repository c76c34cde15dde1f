"""``sage run FILE``."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Any

import click

from sage.cli.commands import debug_option, invocation_of
from sage.cli.report import failure_as_json
from sage.cli.run_options import beginning, chosen, run_options
from sage.cli.user_file import check_meant, executed, pipeline_of
from sage.cli.watching import Watcher
from sage.errors import SageError
from sage.flow.pipeline import Pipeline
from sage.runtime.outcome import RunOptions, RunResult, Status

FINISHED_WITH_DEAD_LETTERS = 8


@click.command("run")
@click.argument("file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
@run_options
@click.option("--fail-on-dead-letters", is_flag=True, help="Exit with 8 when there are any.")
@click.option("--json", "to_json", is_flag=True, help="The result as JSON on standard output, and nothing else there.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--explain", is_flag=True, help="Say at the end who ran what and why, and where the time went.")
@debug_option
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    file: str,
    arguments: tuple[str, ...],
    fail_on_dead_letters: bool,
    to_json: bool,
    quiet: bool,
    explain: bool,
    **said: Any,
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
    watcher = Watcher(invocation_of(context), quiet=quiet, explain=explain, json_to=sys.stdout if to_json else None)

    def runner(pipeline: Pipeline, options: RunOptions) -> RunResult:
        check_meant(pipeline, said["pipeline"], file)
        return watcher.run(beginning(pipeline, said), chosen(options, said))

    try:
        with redirect_stdout(sys.stderr) if to_json else nullcontext(), executed(file, arguments, runner) as module:
            if not watcher.results:
                runner(pipeline_of(module, file, said["pipeline"]), RunOptions())
    except SageError as error:
        if to_json and not any(result.error is error for result in watcher.results):
            click.echo(failure_as_json(error))
        raise
    if fail_on_dead_letters and any(r.status is Status.SUCCEEDED_WITH_DEAD_LETTERS for r in watcher.results):
        context.exit(FINISHED_WITH_DEAD_LETTERS)
