"""``sage job verify``, ``repair`` and ``bill``: job directories, looked at from outside."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import click

from sage.cli.commands import debug_option, whole_number
from sage.cli.stderr import say
from sage.errors import StorageError
from sage.runtime.durable import StepBill

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_JSON_OPTION = click.option("--json", "to_json", is_flag=True, help="JSON on standard output.")
_COLUMNS = tuple(column.name for column in fields(StepBill))


@click.command("verify")
@_FOLDER
@_JSON_OPTION
@debug_option
def verify(folder: Path, *, to_json: bool) -> None:
    """Check every page, row and file of the job directory DIR, and tell what is in it."""
    from sage.runtime.durability import audit  # SQLite

    try:
        found = audit.verify(folder)
    except StorageError as error:
        if error.code == "E604":
            for row in audit.damaged_rows(folder):
                say(f"row {row.number} ({row.kind}) is damaged")
        raise
    if to_json:
        click.echo(json.dumps(asdict(found)))
        return
    click.echo(f"{folder} is whole: job {found.job} of pipeline {found.pipeline!r}, {found.stage}, {found.runs} runs")
    click.echo(f"  finished: {sum(found.finished.values()):,} records of {len(found.finished)} parts of the input")
    for kind, number in sorted(found.rows.items()):
        click.echo(f"  {kind:<10} {number:>12,}")


@click.command("repair")
@_FOLDER
@click.option("--drop-row", "number", callback=whole_number, required=True, metavar="N", help="As verify names it.")
@debug_option
def repair(folder: Path, *, number: int) -> None:
    """Remove a damaged row from the job directory DIR, if the job goes on rightly without it: its call is made
    again."""
    from sage.runtime.durability import audit  # SQLite

    say(f"row {number} is dropped; what it was is in {audit.drop_row(folder, number)}")


@click.command("bill")
@_FOLDER
@_JSON_OPTION
@debug_option
def bill(folder: Path, *, to_json: bool) -> None:
    """Tell which calls of durable steps were paid, reused, adopted from other jobs and, at most, wasted, over all runs
    of the job in DIR."""
    from sage.runtime.durability import audit  # SQLite

    steps = audit.bill(folder)
    if to_json:
        click.echo(json.dumps({"steps": [asdict(step) for step in steps]}))
        return
    lines = [_COLUMNS, *(tuple(map(_cell, asdict(step).values())) for step in steps)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        click.echo("  ".join(cells))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
