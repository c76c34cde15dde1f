"""``sage usage``: the tokens that went through the gateway, by key, job, step and model."""

from __future__ import annotations

import json

import click

from sage.cli.commands import debug_option, whole_number
from sage.cli.files import check_file
from sage.cli.gateway import usage_file
from sage.errors import UsageError
from sage.gateway import Ledger, Used
from sage.gateway.ledger import BY

_FIGURES = ("requests", "failed", "prompt_tokens", "completion_tokens", "estimated_tokens", "reused_tokens")


@click.command("usage")
@click.option("--by", default="key,model", metavar="NAMES", help=f"Of {', '.join(BY)}; default key,model.")
@click.option("--hours", callback=whole_number, metavar="N", help="Only the last N hours, this one included.")
@click.option("--file", metavar="FILE", help="The gateway's usage_file, where its configuration names one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
@debug_option
def usage(by: str, hours: int | None, file: str | None, as_json: bool) -> None:
    """Tell who used how many tokens through the gateway on this machine."""
    names = _names(by)
    path = usage_file(file)
    if file is None and not path.exists():
        raise UsageError(
            "E120", "no gateway has written down usage here", at=str(path),
            try_="sage gateway, or --file with the usage_file of its configuration",
        )  # fmt: skip
    check_file(str(path), "file of usage", (".sqlite",), any_name=True)
    ledger = Ledger(path)
    try:
        totals = ledger.totals(names, hours=hours)
    finally:
        ledger.close()
    if as_json:
        for used in totals:
            values = used._asdict()
            click.echo(json.dumps({name: values[name] for name in (*names, *_FIGURES)}))
    else:
        for line in _table(names, totals):
            click.echo(line)


def _names(by: str) -> list[str]:
    names = [name.strip() for name in by.split(",")]
    if wrong := next((name for name in names if name not in BY), None):
        raise UsageError("E104", "there is no such column", at="--by", got=wrong, expected=", ".join(BY))
    return names


def _table(names: list[str], totals: list[Used]) -> list[str]:
    rows = [[*names, *_FIGURES]]
    for used in totals:
        values = used._asdict()
        rows.append([values[name] or "-" for name in names] + [f"{values[name]:,}" for name in _FIGURES])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) if i < len(names) else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
