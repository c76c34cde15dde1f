"""``sage queue``: the queues that processes of this user have open on this machine."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import click

from sage.cli.commands import Group, debug_option, whole_number
from sage.cli.figures import clock, columns_as_text, count, line_width, seconds
from sage.cli.stderr import say
from sage.errors import UsageError, shorten
from sage.queues import HandleView, QueueView, metrics_text, overview

SPARE = ("processes", "full", "kind", "get wait", "put wait")
NOBODY = "no queue is open: those that a process of yours opens by a descriptor are shown here as long as it runs"
SMALLEST_INTERVAL_S = 0.1


@click.group("queue", cls=Group)
def queue() -> None:
    """Look at the queues of this machine while they run."""


@queue.command("list")
@click.option("--json", "to_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--prometheus", is_flag=True, help="All figures of all queues as Prometheus text.")
@debug_option
def list_queues(to_json: bool, prometheus: bool) -> None:
    """List the queues that your processes have open, and who is slow: producers or consumers.

    Rates and waits are those of the last two seconds. A wait of 100% means that one thread did nothing but wait.
    """
    if to_json and prometheus:
        raise UsageError("E104", "one form at a time", at="sage queue list", got="--json and --prometheus")
    if prometheus:
        click.echo(metrics_text(), nl=False)
        return
    queues = overview()
    if to_json:
        click.echo(json.dumps({"queues": [_summary(found) for found in queues]}))
    elif queues:
        click.echo("\n".join(table(queues, line_width())))
    else:
        say(NOBODY)


@queue.command("show")
@click.argument("name")
@click.option("--json", "to_json", is_flag=True, help="One JSON object on standard output.")
@debug_option
def show_queue(name: str, to_json: bool) -> None:
    """Show all figures of the queue NAME, process by process."""
    queues = overview()
    chosen = [found for found in queues if found.name == name]
    if not chosen:
        raise _unknown(name, queues)
    if to_json:
        click.echo(json.dumps({"queues": [_in_full(found) for found in chosen]}))
    else:
        click.echo("\n\n".join("\n".join(_described(found)) for found in chosen))


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) or float(value) < SMALLEST_INTERVAL_S:
        expected = f"seconds, {SMALLEST_INTERVAL_S:g} or more"
        raise UsageError("E104", "bad number", at=parameter.opts[0], got=repr(value), expected=expected)
    return float(value)


@queue.command("watch")
@click.option("--interval", "interval_s", callback=_seconds, default="1", metavar="SECONDS", help="Between two looks.")
@click.option("--count", "looks", callback=whole_number, metavar="N", help="End after N looks; otherwise at Ctrl-C.")
@debug_option
def watch(interval_s: float, looks: int | None) -> None:
    """Show the queues again and again, until Ctrl-C.

    On a terminal the table is drawn anew; elsewhere each look is a block of its own.
    """
    if looks == 0:
        raise UsageError("E104", "bad number", at="--count", got="0", expected="a whole number from 1 on")
    pause = threading.Event()
    with suppress(KeyboardInterrupt), _screen() as show:  # Ctrl-C is the way to end it
        for look in itertools.count(1):
            show(overview())
            if look == looks:
                break
            pause.wait(interval_s)


@contextmanager
def _screen() -> Iterator[Callable[[list[QueueView]], None]]:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_interactive:
        yield lambda queues: click.echo("\n".join([*_looked(queues, line_width()), ""]))
        return
    from rich.live import Live
    from rich.text import Text

    def drawn(queues: list[QueueView]) -> Text:
        head, *lines = _looked(queues, console.width - 1)
        styles = ["dim"] + ["yellow" if found.slow_side else "" for found in queues]
        styles += [""] * (len(lines) - len(styles))
        text = Text("\n").join([Text(head), *map(Text, lines, styles)])
        text.no_wrap = True
        return text

    with Live(console=console, auto_refresh=False) as live:
        yield lambda queues: live.update(drawn(queues), refresh=True)


def _looked(queues: list[QueueView], width: int) -> list[str]:
    processes = {handle.process for found in queues for handle in found.handles}
    head = f"{time.strftime('%H:%M:%S')}  {_number(len(queues), 'queue')}, {_number(len(processes), 'process')}"
    return [head, *(table(queues, width) if queues else textwrap.wrap(NOBODY, width))]


def table(queues: Sequence[QueueView], width: int) -> list[str]:
    """A line of headings and a line per queue. What can be spared is left out where `width` is small."""
    columns = {
        "kind": [shorten(found.kind, 20) for found in queues],
        "depth": [_depth(found) for found in queues],
        "full": [_percent(found.filled) for found in queues],
        "puts/s": [_rate(found.puts_per_s) for found in queues],
        "gets/s": [_rate(found.gets_per_s) for found in queues],
        "put wait": [_percent(found.put_wait) for found in queues],
        "get wait": [_percent(found.get_wait) for found in queues],
        "slow side": [found.slow_side or "-" for found in queues],
        "processes": [_processes(found) for found in queues],
    }
    return columns_as_text("queue", [shorten(found.name, 100) for found in queues], columns, width, SPARE)


def _described(found: QueueView) -> Iterator[str]:
    size = f"{_depth(found)} items" + ("" if found.filled is None else f" ({_percent(found.filled)})")
    yield f"{shorten(found.name)}: {shorten(found.kind)}, {size}, {_number(len(found.handles), 'process')}"
    yield f"  {_rate(found.puts_per_s)} puts/s, {_rate(found.gets_per_s)} gets/s, slow side: {found.slow_side or '-'}"
    for handle in found.handles:
        yield ""
        yield from _handle_described(handle)


def _handle_described(handle: HandleView) -> Iterator[str]:
    stats = handle.figures.stats
    silent = f", silent for {seconds(handle.silent_s)}" if handle.silent_s else ""
    program = shorten(handle.program, 40)
    yield f"  process {handle.process} ({program}), {handle.role}, open for {clock(handle.open_for_s)}{silent}"
    for what, total, beside in (
        ("puts", f"{stats.total_puts:,}", f"{_rate(handle.puts_per_s)}/s"),
        ("gets", f"{stats.total_gets:,}", f"{_rate(handle.gets_per_s)}/s"),
        ("waited for room", seconds(stats.put_wait_s), _percent(handle.put_wait)),
        ("waited for items", seconds(stats.get_wait_s), _percent(handle.get_wait)),
        (
            "put_batch calls",
            f"{stats.batch_puts:,}",
            f"{stats.avg_batch_size:,.1f} items each" if stats.batch_puts else "",
        ),
        ("get_batch calls", f"{stats.batch_gets:,}", ""),
        ("bytes put", f"{stats.bytes_in:,}", ""),
        ("bytes got", f"{stats.bytes_out:,}", ""),
        ("items to be sent", f"{stats.buffer_size:,}", ""),
        ("batches under way", f"{stats.pending_batches:,}", ""),
    ):
        yield f"    {what:<18}{total:>16}  {beside}".rstrip()


def _summary(found: QueueView) -> dict[str, Any]:
    names = ("name", "kind", "maxsize", "depth", "puts_per_s", "gets_per_s", "put_wait", "get_wait", "slow_side")
    return {name: getattr(found, name) for name in names} | {"processes": [one.process for one in found.handles]}


def _in_full(found: QueueView) -> dict[str, Any]:
    names = ("process", "program", "role", "open_for_s", "silent_s", "puts_per_s", "gets_per_s", "put_wait", "get_wait")
    handles = [
        {name: getattr(handle, name) for name in names} | asdict(handle.figures.stats) for handle in found.handles
    ]
    return _summary(found) | {"handles": handles}


def _unknown(name: str, queues: Sequence[QueueView]) -> UsageError:
    near = difflib.get_close_matches(name[:100], [found.name for found in queues], n=1)
    try_ = f"sage queue show {shorten(near[0])}" if near else "sage queue list"
    return UsageError("E128", "there is no such queue", at="sage queue show", got=repr(name[:100]), try_=try_)


def _depth(found: QueueView) -> str:
    return count(found.depth) if found.maxsize is None else f"{count(found.depth)}/{count(found.maxsize)}"


def _processes(found: QueueView) -> str:
    silent = sum(1 for handle in found.handles if handle.silent_s)
    return f"{len(found.handles)} ({silent} silent)" if silent else str(len(found.handles))


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else count(per_s)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
