"""``sage cluster``: Ray clusters of many nodes on this machine, for development and for experiments."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click

from sage.cli.cluster_report import describe, table
from sage.cli.commands import Group, debug_option, whole_number
from sage.cli.detached import start_detached
from sage.cli.holding import Wanted, hold_cluster
from sage.cli.stderr import say
from sage.cluster.named import Named, all_named, check_name, end, find
from sage.cluster.plan import plan_nodes
from sage.cluster.sessions import enter
from sage.errors import UsageError
from sage.testing.network import Link

DEFAULT_NAME = "sage"
START_TIMEOUT_S, NODE_TIMEOUT_S = 220.0, 30.0


@click.group("cluster", cls=Group)
def cluster() -> None:
    """Start, look at and end Ray clusters on this machine."""


@cluster.command("up")
@click.option("--nodes", callback=whole_number, default="2", show_default=True, metavar="N", help="How many nodes.")
@click.option("--cpus", callback=whole_number, metavar="C", help="CPUs that each counts.  [default: its share]")
@click.option("--store-mb", callback=whole_number, metavar="MB", help="Object store of each.  [default: its share]")
@click.option("--name", default=DEFAULT_NAME, show_default=True, metavar="NAME", help="What to call it.")
@click.option("--latency-ms", type=float, metavar="MS", help="Each node a machine of its own, so far from the others.")
@click.option("--bandwidth-mbit", type=float, metavar="MBIT", help="The same, and what each pair can send a second.")
@click.option("--loss", type=float, metavar="P", help="The same, and the probability that a packet is lost.")
@click.option("--detached", is_flag=True, hidden=True)
@debug_option
def up(
    *, nodes: int, cpus: int | None, store_mb: int | None, name: str,
    latency_ms: float | None, bandwidth_mbit: float | None, loss: float | None, detached: bool,
) -> None:  # fmt: skip
    """Start a cluster of real Ray nodes, that outlives the terminal and needs its token.

    With a latency, bandwidth or loss each node is in a network of its own, where the kernel allows that (root); where
    not, all are on loopback, and the command says so.
    """
    link = _link(latency_ms, bandwidth_mbit, loss)
    store_bytes = None if store_mb is None else store_mb * 1_000_000
    check_name(name)
    if detached:
        hold_cluster(Wanted(name, nodes, cpus, store_bytes, link))
    plan_nodes(nodes, cpus, store_bytes)
    given: dict[str, object] = {"nodes": nodes, "cpus": cpus, "store-mb": store_mb, "name": name}
    given |= {"latency-ms": latency_ms, "bandwidth-mbit": bandwidth_mbit, "loss": loss}
    options = [f"--{key}={value}" for key, value in given.items() if value is not None]
    start_detached(
        f"the cluster {name}", ["cluster", "up", "--detached", *options], START_TIMEOUT_S + NODE_TIMEOUT_S * nodes
    )
    made = find(name)
    for line in describe(made):
        say(line)


@cluster.command("down")
@click.option("--name", metavar="NAME", help="Which one.  [default: the only one]")
@debug_option
def down(name: str | None) -> None:
    """End a cluster: every process of it, and its files; nothing else is touched."""
    known = all_named()
    stale = [one for one in known if not one.is_held and name in (None, one.name)]
    for one in stale:
        end(one)
        say(f"the cluster {one.name} had ended already; what was left of it is removed")
    if not any(one.is_held and name in (None, one.name) for one in known):
        if not stale:
            say(f"no cluster {name} is up" if name else "no cluster is up")
        return
    found = find(name)
    end(found)
    say(f"the cluster {found.name} is down: {len(found.cluster.nodes)} nodes, and nothing of it is left")


@cluster.command("status")
@click.option("--name", metavar="NAME", help="Only this one.")
@click.option("--json", "to_json", is_flag=True, help="One JSON object on standard output.")
@debug_option
def status(name: str | None, to_json: bool) -> None:
    """Show the clusters, and for each node its processes, CPUs and memory, and whether it lives."""
    known = [one for one in all_named() if name in (None, one.name)]
    if name is not None and not known:
        find(name)
    if to_json:
        click.echo(json.dumps({"clusters": [_as_json(one) for one in known]}))
        return
    if not known:
        say("no cluster is up")
    for one in known:
        for line in describe(one):
            click.echo(line)


@cluster.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", metavar="NAME", help="Which one.  [default: the only one]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@debug_option
def exec_(name: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND where the head runs, with the address and the token of the cluster in its environment.

    Whatever uses Ray connects by itself: ray.init(), sage run --address auto, ray status.
    """
    found = find(name)
    enter(found.namespaces)
    os.execvp("env", [os.fspath(part) for part in found.cluster.command(command)])


def _link(latency_ms: float | None, bandwidth_mbit: float | None, loss: float | None) -> Link | None:
    if latency_ms is None and bandwidth_mbit is None and loss is None:
        return None
    try:
        return Link(delay_ms=latency_ms or 0.0, bandwidth_mbit=bandwidth_mbit, loss=loss or 0.0)
    except UsageError as error:
        raise UsageError("E104", error.what, at=error.at, got=error.got, expected=error.expected) from error


def _as_json(named: Named) -> dict[str, object]:
    return {
        "name": named.name,
        "up": named.is_held,
        "address": named.cluster.address,
        "network": named.network,
        "token_path": str(named.cluster.token_path),
        "nodes": [asdict(row) for row in table(named)],
    }
