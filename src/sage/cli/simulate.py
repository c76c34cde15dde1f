"""``sage simulate``: what a larger cluster would do."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import click

from sage.cli.commands import debug_option, whole_number
from sage.cli.validation import print_validation
from sage.errors import UsageError
from sage.llm.simulated import PROFILES, profile_named
from sage.scheduling import scheduler_named
from sage.simulation import (
    PIPELINES,
    Closed,
    ClusterModel,
    JobModel,
    Outcome,
    Poisson,
    bottleneck_of,
    nodes_of,
    pipeline_named,
    read_trace,
    simulate,
)

AHEAD = 2
"""Records on their way for each slot, where the load does not say it."""
MOST_ENDPOINTS = 1000
NOT_TRUE = 1


@dataclass(frozen=True)
class Question:
    """One what-if."""

    cluster: ClusterModel
    scheduler: str
    job: JobModel
    seed: int

    def answered(self) -> dict[str, float | int | str]:
        """Run it; the figures by name."""
        began_s = process_time()
        scheduler = scheduler_named(self.scheduler)
        outcome = simulate(self.cluster, scheduler, [self.job], seed=self.seed)
        simulated_in_s = round(process_time() - began_s, 3)
        bottleneck = bottleneck_of(self.cluster, scheduler, [self.job], seed=self.seed)
        return {**_figures(outcome), "bottleneck": bottleneck, "simulated_in_s": simulated_in_s}


def _figures(outcome: Outcome) -> dict[str, float | int | str]:
    latencies_s = sorted(outcome.latencies_s)
    count = len(latencies_s)
    busy = outcome.endpoints_busy
    return {
        "records": count,
        "records_per_s": round(count / outcome.ended_s, 3),
        "p50_s": round(latencies_s[(count - 1) // 2], 6),
        "p99_s": round(latencies_s[int(0.99 * (count - 1))], 6),
        "balance": round(outcome.balance, 4),
        "slots_busy": round(outcome.slots_busy, 4),
        "endpoints_busy": round(sum(busy) / len(busy), 4) if busy else 0.0,
        "output_tokens_per_s": round(outcome.output_tokens / outcome.ended_s, 1),
        "virtual_s": round(outcome.ended_s, 6),
    }


@click.command("simulate")
@click.option("--nodes", default="16", callback=whole_number, metavar="N", help="Machines.  [default: 16]")
@click.option("--slots", default="8", callback=whole_number, metavar="N", help="Records at once on each.  [default: 8]")
@click.option("--cores", callback=whole_number, metavar="N", help="Cores of each; without, computing is sleeping.")
@click.option("--speeds", default="1", metavar="A,B,...", help="Of the nodes, in turn.  [default: 1]")
@click.option("--scheduler", default="adaptive", show_default=True, metavar="NAME")
@click.option("--pipeline", default="rag", show_default=True, metavar="|".join(PIPELINES))
@click.option("--records", default="5000", callback=whole_number, metavar="N", help="[default: 5000]")
@click.option("--in-flight", callback=whole_number, metavar="N", help="On their way at once.  [default: 2 for a slot]")
@click.option("--rate", type=float, metavar="PER_S", help="Poisson arrivals instead.")
@click.option(
    "--trace", metavar="FILE", help="Replay the requests of a trace (Azure CSV, Mooncake JSON lines) instead."
)
@click.option("--trace-speed", type=float, default=1.0, show_default=True, metavar="X", help="So many times as fast.")
@click.option("--endpoints", default="1", metavar="N|A..B", help="How many; a range asks for each.  [default: 1]")
@click.option("--profile", default="a100-qwen2.5-3b", type=click.Choice(list(PROFILES)), help="Of the endpoints.")
@click.option("--seed", default="0", callback=whole_number, metavar="N", help="[default: 0]")
@click.option("--json", "to_json", is_flag=True, help="The figures as JSON, one line for each number of endpoints.")
@click.option("--validate", "only_validate", is_flag=True, help="Only compare with a real cluster: 1, 4, 8, 16 nodes.")
@click.option("--on", default="local", show_default=True, metavar="CLUSTER", help="For --validate; as in sage bench.")
@debug_option
@click.pass_context
def simulate_command(
    context: click.Context,
    /,
    *,
    endpoints: str,
    to_json: bool,
    only_validate: bool,
    on: str,
    scheduler: str,
    profile: str,
    seed: int,
    **options: object,
) -> None:
    """Run a load on a cluster in virtual time: the real schedulers and limits, models of nodes and endpoints.

    ``--endpoints 1..8`` says for each number of endpoints where the next bottleneck is. ``--validate`` runs sleeping
    records on real processes or nodes and in virtual time; the exit code is 1 if they are further than 10% apart.
    """
    if only_validate:
        context.exit(0 if print_validation(on, seed) else NOT_TRUE)
    scheduler_named(scheduler)
    nodes = _nodes(options)
    job = _job(options)
    found: dict[int, str] = {}
    if not to_json:
        click.echo("virtual time, simulated endpoints: nothing here was measured on machines")
        click.echo("endpoints  records/s     p50 s     p99 s  balance  slots busy  endpoints busy  bottleneck")
    for count in _range(endpoints):
        cluster = replace(nodes, endpoints=(profile_named(profile),) * count)
        figures = Question(cluster, scheduler, job, seed).answered()
        if to_json:
            click.echo(json.dumps({"endpoints": count, "virtual_time": True, **figures}))
        else:
            click.echo(
                f"{count:9}  {figures['records_per_s']:9.1f}  {figures['p50_s']:8.4f}  {figures['p99_s']:8.4f}  "
                f"{figures['balance']:7.3f}  {figures['slots_busy']:10.1%}  {figures['endpoints_busy']:14.1%}  "
                f"{figures['bottleneck']}"
            )
        found[count] = str(figures["bottleneck"])
    if len(found) > 1 and not to_json:
        click.echo(_next_bottleneck(found))


def _next_bottleneck(found: dict[int, str]) -> str:
    """From which number of endpoints on something else is."""
    counts = list(found)
    first = found[counts[0]]
    if found[counts[-1]] == first:
        return f"from {counts[0]} to {counts[-1]} endpoints the bottleneck is the same: {first}"
    since = next(count for count in counts if all(found[later] != first for later in counts if later >= count))
    return f"the next bottleneck, from {since} endpoints on: {found[since]}"


def _nodes(options: dict[str, object]) -> ClusterModel:
    nodes, slots, cores = options["nodes"], options["slots"], options["cores"]
    assert isinstance(nodes, int)
    assert isinstance(slots, int)
    assert cores is None or isinstance(cores, int)
    try:
        speeds = [float(speed) for speed in str(options["speeds"]).split(",")]
    except ValueError as error:
        raise UsageError(
            "E104", "bad speeds", at="--speeds", got=options["speeds"], expected="numbers like 1,2,4"
        ) from error
    return nodes_of(nodes, slots=slots, speeds=speeds, cores=cores)


def _job(options: dict[str, object]) -> JobModel:
    records, rate, trace = options["records"], options["rate"], options["trace"]
    nodes, slots, in_flight = options["nodes"], options["slots"], options["in_flight"]
    speed = options["trace_speed"]
    assert isinstance(records, int)
    assert isinstance(nodes, int)
    assert isinstance(slots, int)
    assert isinstance(speed, float)
    if trace is not None:
        replay = read_trace(Path(str(trace)), speed=speed, most=records)
        return JobModel("trace", None, len(replay.arrivals), replay)
    draw = pipeline_named(str(options["pipeline"]))
    if isinstance(rate, float):
        return JobModel("job", draw, records, Poisson(rate))
    assert in_flight is None or isinstance(in_flight, int)
    return JobModel("job", draw, records, Closed(AHEAD * nodes * slots if in_flight is None else in_flight))


def _range(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last <= MOST_ENDPOINTS:
        expected = f"a number from 1 to {MOST_ENDPOINTS}, or a range like 1..8"
        raise UsageError("E104", "bad number of endpoints", at="--endpoints", got=text, expected=expected)
    return range(first, last + 1)
