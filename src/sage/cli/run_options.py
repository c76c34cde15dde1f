"""What may be said of a run: the options that ``sage run`` and ``sage job submit`` share.

Each has the name of the field that it sets in `RunOptions`, and in `sage.jobs.job.JobSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from sage.cli.commands import whole_number
from sage.connectors.first import only_first
from sage.errors import UsageError
from sage.flow.pipeline import Pipeline
from sage.runtime.outcome import RunOptions
from sage.runtime.run import check_engine

F = TypeVar("F", bound=Callable[..., Any])
PATHS = frozenset({"dead_letters", "job_dir", "reuse"})
_FIELDS = frozenset(field.name for field in fields(RunOptions))


def _path(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise UsageError("E104", "the path is empty", at=parameter.opts[0])
    return value


def _engine(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    check_engine(value or "local")
    return value


def _first(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    count = whole_number(context, parameter, value)
    if count == 0:
        raise UsageError("E104", "bad number", at="--first", got=0, expected="a whole number from 1 on")
    return count


_OPTIONS = (
    click.option("--pipeline", metavar="NAME", help="Which pipeline of the file, where it holds several."),
    click.option(
        "--engine", callback=_engine, metavar="NAME", help="What runs it: local, or ray (a cluster).  [default: local]"
    ),
    click.option(
        "--processes", callback=whole_number, metavar="N", help="Run what keeps a processor busy in N processes."
    ),
    click.option(
        "--address", metavar="HOST:PORT", help="ray: the cluster to join.  [default: a private one for this run]"
    ),
    click.option(
        "--hosts", callback=whole_number, metavar="N", help="ray: processes in all.  [default: one a processor]"
    ),
    click.option(
        "--scheduler", metavar="NAME", help="Who places steps on nodes and gives out their work.  [default: adaptive]"
    ),
    click.option(
        "--restarts", callback=whole_number, metavar="N", help="After lost hosts, begin again N times a minute."
    ),
    click.option("--insecure-cluster", is_flag=True, help="ray: join a cluster that asks for no token."),
    click.option(
        "--job-dir", callback=_path, metavar="DIR",
        help="Keep there what a run needs to go on where this one was cut off.",
    ),
    click.option(
        "--reuse-results", "reuse", callback=_path, metavar="DIR",
        help="Share results of durable steps with other jobs, there.",
    ),
    click.option(
        "--discard-step", "discard_steps", multiple=True, metavar="NAME", help="Forget the state of a lost step."
    ),
    click.option(
        "--first", callback=_first, metavar="N", help="Only the first N records of each file, to try it out."
    ),
    click.option(
        "--dead-letters", callback=_path, metavar="PATH",
        help="Where records go that fail for good.  [default: NAME.dead.jsonl; of a job, in its folder]",
    ),
    click.option("--max-dead-letters", callback=whole_number, metavar="N", help="Fail when there are more."),
    click.option("--append", is_flag=True, help="Add to the outputs of an earlier run instead of replacing them."),
)  # fmt: skip


def run_options(command: F) -> F:
    """Adds them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(options: RunOptions, said: Mapping[str, Any]) -> RunOptions:
    """`options`, as the file gave them, with what was `said` instead. What is no field of them is passed over."""
    values = {name: said[name] for name in _FIELDS & said.keys() if _is_said(said[name])}
    values |= {name: Path(values[name]) for name in PATHS & values.keys()}
    if "discard_steps" in values:
        values["discard_steps"] = frozenset(values["discard_steps"])
    if "address" in values:
        values.setdefault("engine", "ray")
    return replace(options, **values)


def beginning(pipeline: Pipeline, said: Mapping[str, Any]) -> Pipeline:
    """`pipeline`, with as much of its sources as ``--first`` says."""
    return pipeline if said["first"] is None else only_first(pipeline, said["first"])


def _is_said(value: object) -> bool:
    return value is not None and value is not False and value != ()
