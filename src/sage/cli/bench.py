"""``sage bench``: the experiment suite."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sage.bench import (
    EXPERIMENTS,
    Executor,
    Options,
    Section,
    executor_for,
    executor_of_many,
    publish,
    publish_all,
    run_experiment,
)
from sage.bench.experiments import verify
from sage.bench.options import with_file
from sage.bench.texts import summary
from sage.cli.commands import debug_option, whole_number
from sage.cli.files import read_file
from sage.cli.stderr import say
from sage.errors import UsageError

NAMES = (*EXPERIMENTS, "all")
NOT_PASSED = 1


@click.command("bench")
@click.argument("experiment", metavar="EXPERIMENT")
@click.option("--quick", is_flag=True, help="Smaller: about a minute.")
@click.option("--cluster", metavar="virtual|local|emulated|ADDRESS|NAME", help="What it runs on.  [default: virtual]")
@click.option("--nodes", metavar="N,N,...", help="Numbers of nodes.  [default: the experiment's]")
@click.option("--workers", metavar="N,N,...", help="With primes: processes on each node.  [default: the experiment's]")
@click.option("--tasks", callback=whole_number, metavar="N", help="Records of each case.  [default: the experiment's]")
@click.option("--pipeline", metavar="NAME", help="rag, compute, llm, mixed or adaptive_rag.")
@click.option("--scheduler", metavar="NAME", help="[default: the experiment's]")
@click.option("--repeat", callback=whole_number, metavar="N", help="Of each case.  [default: 5; with --quick 3]")
@click.option("--seed", callback=whole_number, metavar="N", help="Of the first repeat.  [default: 0]")
@click.option("--config", metavar="FILE", help="These options from a TOML file; what is given here goes first.")
@click.option("--results", default="results", show_default=True, metavar="FOLDER", help="Where everything is written.")
@click.option("--resume", is_flag=True, help="Go on after an interruption: what was measured is kept.")
@click.option("--verify", "only_verify", is_flag=True, help="With queue: only check that batching works.")
@click.option("--quiet", is_flag=True, help="No progress.")
@debug_option
@click.pass_context
def bench(
    context: click.Context,
    /,
    *,
    experiment: str,
    results: str,
    resume: bool,
    only_verify: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure, compare and draw: one experiment, or all of them in series.

    EXPERIMENT is scaling, load, schedulers, concurrency, isolation, admission, queue, primes or all.

    Everything goes to a folder for each experiment: metrics.json, the records as Parquet, summary.txt, comparison.txt,
    tables.tex, plots, report.html. Ctrl-C keeps what was measured; --resume goes on.
    """
    if experiment not in NAMES:
        raise UsageError("E151", "there is no such experiment", got=experiment, expected=", ".join(NAMES))
    if only_verify:
        if experiment != "queue":
            raise UsageError("E104", "only queues can be verified", at="--verify", try_="sage bench queue --verify")
        context.exit(0 if _verified() else NOT_PASSED)
    options = _options(given)
    chosen = list(EXPERIMENTS) if experiment == "all" else [experiment]
    sections = _run(chosen, options, Path(results), resume=resume, quiet=quiet)
    if len(sections) > 1:
        publish_all(sections, Path(results))
    for section in sections:
        click.echo(summary(section.report))
    say(f"written to {results}/")


def _run(names: list[str], options: Options, folder: Path, *, resume: bool, quiet: bool) -> list[Section]:
    """Each is published as soon as it was measured."""
    sections: list[Section] = []
    for number, name in enumerate(names):
        if not quiet:
            spent_s = sum(section.report.elapsed_s for section in sections)
            left = f", about {spent_s / number * (len(names) - number):.0f} s left" if number else ""
            say(f"{name}: experiment {number + 1} of {len(names)}{left}")
        executor = _executor(name, options, alone=len(names) == 1)
        try:
            progress = (lambda line: None) if quiet else say
            report = run_experiment(EXPERIMENTS[name], executor, options, folder, resume=resume, progress=progress)
            sections.append(publish(report, folder))
        except KeyboardInterrupt:
            say(f"what was measured is kept in {folder}/: the same command with --resume goes on")
            raise
        finally:
            executor.close()
    return sections


def _executor(name: str, options: Options, *, alone: bool) -> Executor:
    if alone:
        return executor_for(options.cluster, EXPERIMENTS[name])
    executor, why_virtual = executor_of_many(EXPERIMENTS[name], options)
    if why_virtual:
        say(f"{name}: in virtual time, because {why_virtual}")
    return executor


def _options(given: dict[str, Any]) -> Options:
    config = given.pop("config")
    values = {name: value for name, value in given.items() if value not in (None, False)}
    for name in ("nodes", "workers"):
        if name in values:
            values[name] = _numbers(name, values[name])
    options = Options()
    if config is not None:
        content = read_file(config, "TOML file with options", (".toml",))
        try:
            options = with_file(options, Path(config), tomllib.loads(content.decode()))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError("E124", "this is not a TOML file", at=config, got=error) from error
    return replace(options, **values)


def _numbers(name: str, given: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", given):
        raise UsageError("E104", f"bad numbers of {name}", at=f"--{name}", got=given, expected="numbers like 1,4,8,16")
    return tuple(map(int, given.split(",")))


def _verified() -> bool:
    passed = True
    for what, ok, found in verify():
        click.echo(f"{'passed' if ok else 'FAILED'}  {what} ({found})")
        passed = passed and ok
    return passed
