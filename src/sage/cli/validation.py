"""``sage simulate --validate``."""

from __future__ import annotations

import click

from sage.bench import executor_for
from sage.bench.validation import BAR, validate
from sage.errors import UsageError

UNITS = {"throughput_per_s": ("records/s", 1.0), "p99_s": ("p99 ms", 1e3)}


def print_validation(cluster: str, seed: int) -> bool:
    """Whether every figure is within the bar."""
    if cluster == "virtual":
        raise UsageError("E104", "virtual time says nothing of itself", at="--on", try_="--on local or --on emulated")
    executor = executor_for(cluster)
    holds = True
    try:
        click.echo(f"measured on: {executor.where}; records sleep for 25 ms, one at once on each node")
        click.echo("nodes  figure       measured   virtual  difference")
        for each in validate(executor, seed=seed):
            name, factor = UNITS[each.figure]
            holds = holds and each.holds
            click.echo(
                f"{each.nodes:5}  {name:9}  {each.measured * factor:10.1f}  {each.simulated * factor:8.1f}  "
                f"{each.difference:+10.1%}  {'' if each.holds else f'MORE THAN {BAR:.0%}'}".rstrip()
            )
    finally:
        executor.close()
    click.echo(f"{'passed' if holds else 'FAILED'}: within {BAR:.0%}")
    return holds
