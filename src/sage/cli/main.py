"""The way in: runs a command, and turns whatever comes out of it into a line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from sage import settings
from sage.cli.commands import Invocation, LazyCommand, LazyGroup, debug_option
from sage.cli.limits import forbid_core_dumps
from sage.cli.stderr import say
from sage.cli.usage import usage_error
from sage.errors import SageError, UsageError, shorten
from sage.version import __version__

INTERRUPTED, PIPE_CLOSED, INTERNAL = 130, 141, 70

COMMANDS = {
    "run": LazyCommand("sage.cli.run", "run", "Run the pipeline of a Python file."),
    "dead-letters": LazyCommand(
        "sage.cli.dead_letters", "dead_letters", "Look at records that failed, and replay them."
    ),
    "job": LazyCommand("sage.cli.job", "job", "Submit pipelines to the job manager, and see to them."),
    "jobmanager": LazyCommand("sage.cli.jobmanager", "jobmanager", "Start, stop and clean up the job manager."),
    "cluster": LazyCommand("sage.cli.cluster", "cluster", "Start, look at and end Ray clusters on this machine."),
    "queue": LazyCommand("sage.cli.queue", "queue", "Look at the queues of this machine while they run."),
    "rag": LazyCommand("sage.cli.rag", "rag", "Index documents and ask them questions."),
    "endpoint": LazyCommand("sage.cli.endpoint", "endpoint", "Simulate an LLM endpoint, without a GPU."),
    "bench": LazyCommand("sage.cli.bench", "bench", "Measure, compare and draw: the experiment suite."),
    "simulate": LazyCommand("sage.cli.simulate", "simulate_command", "Ask what a larger cluster would do."),
    "gateway": LazyCommand("sage.cli.gateway", "gateway", "Serve OpenAI's API in front of endpoints, shared fairly."),
    "usage": LazyCommand("sage.cli.used_tokens", "usage", "Tell who used how many tokens through the gateway."),
    "doctor": LazyCommand("sage.cli.doctor", "doctor", "Check that this machine is ready for SAGE."),
    "version": LazyCommand("sage.cli.version", "version", "Say which version this is."),
}


EXIT_CODES = (
    "Exit codes: 0 done, 1 a check did not pass, 2 command line, 3 pipeline or settings, 4 source, 5 sink, 6 SAGE's "
    "own files, 7 endpoint, 8 dead letters (--fail-on-dead-letters), 9 a process was lost, 70 a defect, 130 Ctrl-C."
)


@click.group(
    cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True, epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.version_option(__version__, message="sage %(version)s")
@debug_option
@click.pass_context
def cli(context: click.Context) -> None:
    """LLM pipelines as dataflow, written in plain Python."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help() + "\n", err=True)
        raise UsageError("E100", "no command was given", at="sage", try_="sage run FILE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Raises SystemExit only where the user's own file did."""
    invocation = Invocation()
    if arguments is None:
        forbid_core_dumps()  # a process of its own, whose settings hold keys
    try:
        code = _invoke(list(sys.argv[1:] if arguments is None else arguments), invocation)
        _flush()
    except BrokenPipeError:
        _let_go_of_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt as interrupt:
        if invocation.reported is not interrupt:
            say("interrupted")
        return _ended(INTERRUPTED)
    except click.ClickException as error:
        return _failed(usage_error(error), invocation)
    except SageError as error:
        return _failed(error, invocation)
    except Exception as error:  # noqa: BLE001 -- the outermost edge: it becomes an outcome
        say(f"E990 internal error: {shorten(error)}. Try: --debug shows the traceback")
        _show_traceback(error, invocation)
        return _ended(INTERNAL)
    return code


def _invoke(arguments: list[str], invocation: Invocation) -> int:
    try:
        with cli.make_context("sage", arguments, obj=invocation) as context:
            cli.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return 0


def _failed(error: SageError, invocation: Invocation) -> int:
    if invocation.reported is not error:
        say(str(error))
    _show_traceback(error, invocation)
    return _ended(error.exit_code)


def _show_traceback(error: BaseException, invocation: Invocation) -> None:
    if invocation.debug or _debug_is_set():
        say("".join(traceback.format_exception(error)))


def _debug_is_set() -> bool:
    try:
        return settings.load().debug
    except SageError:
        return False


def _ended(code: int) -> int:
    try:
        _flush()
    except BrokenPipeError:
        _let_go_of_stdout()
    return code


def _flush() -> None:
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _let_go_of_stdout() -> None:
    """Python flushes standard output once more at its end, and would complain about the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
