"""``sage dead-letters``: records that failed for good, looked at and run again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

from sage import codec
from sage.cli.commands import Group, debug_option, invocation_of
from sage.cli.files import check_file
from sage.cli.report import failure_as_json
from sage.cli.stderr import say
from sage.cli.user_file import check_meant, executed, pipeline_of
from sage.cli.watching import Watcher
from sage.errors import SageError, StorageError, UsageError, shorten
from sage.flow.pipeline import Pipeline
from sage.runtime.letters import Letter, letter_of, lines
from sage.runtime.outcome import RunOptions, RunResult
from sage.runtime.replay import Replay

SUFFIXES = (".jsonl", ".old")


@click.group("dead-letters", cls=Group)
def dead_letters() -> None:
    """Look at records that failed for good, and run them again."""


@dead_letters.command("list")
@click.argument("file")
@click.option("--json", "to_json", is_flag=True, help="One JSON object a line.")
@debug_option
def list_letters(file: str, to_json: bool) -> None:
    """List the dead letters in FILE."""
    width = shutil.get_terminal_size((140, 24)).columns
    number = 0
    for number, letter in enumerate(_letters(file), 1):
        if to_json:
            fields = asdict(letter)
            click.echo(json.dumps({name: fields[name] for name in ("rid", "step", "code", "reason", "attempts")}))
        else:
            if number == 1:
                click.echo(_row("rid", "step", "attempts", "reason", width))
            click.echo(_row(letter.rid, letter.step, str(letter.attempts), letter.reason, width))
    if not to_json:
        say(f"{number:,} dead letter{'' if number == 1 else 's'} in {shorten(file)}")


@dead_letters.command("show")
@click.argument("file")
@click.argument("rid", default="")
@debug_option
def show_letter(file: str, rid: str) -> None:
    """Show all that is known of the dead letter RID in FILE, or of the first one. The end of a rid is enough."""
    wanted = (letter for letter in _letters(file) if letter.rid.endswith(rid.removeprefix("...")))
    found = list(wanted if rid else islice(wanted, 1))
    if not found:
        raise UsageError(
            "E127", "there is no dead letter with this rid", at=shorten(file), got=rid,
            try_=f"sage dead-letters list {shorten(file)}",
        )  # fmt: skip
    click.echo("\n\n".join("\n".join(_described(letter)) for letter in found))


@dead_letters.command("replay")
@click.argument("file")
@click.argument("pipeline_file")
@click.option("--pipeline", metavar="NAME", help="Which pipeline of the file, where it holds several.")
@click.option("--json", "to_json", is_flag=True, help="The result as JSON on standard output, and nothing else there.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@debug_option
@click.pass_context
def replay(
    context: click.Context, *, file: str, pipeline_file: str, pipeline: str | None, to_json: bool, quiet: bool
) -> None:
    """Run the dead letters in FILE again, through the pipeline in the Python file PIPELINE_FILE.

    Each enters at the step that failed, with the input that the step was given, and keeps its rid. What comes out is
    added to the outputs. Letters that succeed leave FILE; what fails again, or cannot be replayed, stays in it.
    The inputs in FILE can be mended before, with any editor.

    \b
    sage dead-letters replay faq.dead.jsonl faq.py
    """
    check_file(file, "dead-letter file", SUFFIXES, any_name=True)
    watcher = Watcher(invocation_of(context), quiet=quiet, json_to=sys.stdout if to_json else None)

    def runner(chosen: Pipeline, options: RunOptions) -> RunResult:
        check_meant(chosen, pipeline, pipeline_file)
        with Replay(chosen, Path(file)) as letters:
            result = watcher.run(letters.pipeline, letters.options, letters.conclude)
            if not quiet:
                for reason, count in letters.staying.items():
                    say(f"  not replayed: {count:,} {reason}")
                if result.dead_letters is None:
                    say("  no dead letter is left, so the file is gone")
        return result

    try:
        with redirect_stdout(sys.stderr) if to_json else nullcontext(), executed(pipeline_file, (), runner) as module:
            if not watcher.results:
                runner(pipeline_of(module, pipeline_file, pipeline), RunOptions())
    except SageError as error:
        if to_json and not watcher.results:
            click.echo(failure_as_json(error))
        raise


def _letters(path: str) -> Iterator[Letter]:
    check_file(path, "dead-letter file", SUFFIXES, any_name=True)
    try:
        with open(path, "rb") as file:
            for line in lines(file):
                yield letter_of(line, shorten(path))
    except OSError as error:
        raise StorageError("E654", "the dead letters cannot be read", at=shorten(path), got=error.strerror) from error


def _row(rid: str, step: str, attempts: str, reason: str, width: int) -> str:
    """Columns that do not depend on what comes later, so that the list starts at once."""
    front = f"{_cell(rid, max(24, width // 3))}  {_cell(step, max(16, width // 8))}  {attempts:>8}  "
    return (front + shorten(reason, max(20, width - len(front)))).rstrip()


def _cell(text: str, width: int) -> str:
    """The end of a long rid tells more than its beginning."""
    text = shorten(text, 2000)
    return text.ljust(width) if len(text) <= width else "..." + text[3 - width :]


def _described(letter: Letter) -> Iterator[str]:
    fields: dict[str, Any] = asdict(letter)
    for name in ("rid", "step", "code", "reason", "attempts", "pipeline", "run", "at"):
        yield f"{name + ':':10} {shorten(fields[name] if isinstance(fields[name], str) else str(fields[name]), 2000)}"
    yield "input:     " + shorten(codec.encode(letter.input).decode(), 10_000)
    if not letter.replayable:
        yield f"           cannot be replayed: {shorten(letter.why_not or 'no reason is given', 2000)}"
    if letter.traceback is not None:
        yield "traceback:"
        yield from ("  " + shorten(line, 400) for line in letter.traceback.splitlines())
