"""``sage doctor``."""

from __future__ import annotations

import json
import shutil
import textwrap
from itertools import chain

import click

from sage.cli.checks import Finding, Level, all_findings
from sage.cli.commands import debug_option
from sage.cli.ray_checks import ray_findings
from sage.errors import PipelineError
from sage.runtime.run import check_engine

NOT_READY = PipelineError.exit_code
INDENT = 23
COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command("doctor")
@click.option("--json", "to_json", is_flag=True, help="The findings as one JSON object.")
@click.option("--engine", metavar="NAME", help="ray: look at a cluster too.")
@click.option("--address", metavar="ADDRESS", help="ray: the cluster at HOST:PORT, its name, or auto.")
@click.option("--insecure-cluster", is_flag=True, help="ray: look at a cluster that asks for no token.")
@debug_option
@click.pass_context
def doctor(
    context: click.Context, to_json: bool, engine: str | None, address: str | None, insecure_cluster: bool
) -> None:
    """Check that this machine is ready for SAGE, and say what to do where it is not.

    With --engine ray, also that a cluster is: the one at --address, or a private one that is started for it.

    Exits with 0 if nothing failed; warnings are about what only some pipelines need.
    """
    check_engine(engine or "local")
    with_ray = engine == "ray" or address is not None
    findings = []
    for finding in chain(all_findings(), ray_findings(address, insecure=insecure_cluster) if with_ray else ()):
        findings.append(finding)
        if not to_json:
            _show(finding)
    failed = sum(finding.level is Level.FAIL for finding in findings)
    warned = sum(finding.level is Level.WARN for finding in findings)
    if to_json:
        click.echo(json.dumps({"ready": not failed, "findings": [_as_json(finding) for finding in findings]}))
    elif failed:
        click.echo(f"not ready: {failed} failed, {warned} to look at")
    else:
        click.echo("ready" + (f", {warned} to look at" if warned else ""))
    if failed:
        context.exit(NOT_READY)


def _show(finding: Finding) -> None:
    lines = [finding.found] if finding.try_ is None else [finding.found, f"try: {finding.try_}"]
    width = max(40, shutil.get_terminal_size((120, 24)).columns - INDENT)
    wrapped = [
        part for line in lines for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    ]
    click.echo(f"{click.style(finding.level.ljust(4), fg=COLOURS[finding.level])}  {finding.subject:<16} {wrapped[0]}")
    for line in wrapped[1:]:
        click.echo(" " * INDENT + line)


def _as_json(finding: Finding) -> dict[str, str | None]:
    return {"subject": finding.subject, "level": finding.level.value, "found": finding.found, "try": finding.try_}
