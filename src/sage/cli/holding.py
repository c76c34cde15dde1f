"""The process behind a cluster with a name: it starts the nodes, and ends them when it is told to."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn

import click

from sage.cluster.cluster import Cluster
from sage.cluster.keeping import Keeping
from sage.cluster.named import Named, hold, write
from sage.cluster.plan import plan_nodes
from sage.errors import UsageError
from sage.testing.network import Link, Network, RayCluster

LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ``sage cluster up`` was asked for; no `link`: all nodes on loopback."""

    name: str
    nodes: int
    cpus: int | None
    store_bytes: int | None
    link: Link | None


@dataclass(frozen=True, slots=True)
class Held:
    """What was started: `network` says in words how its nodes are joined."""

    cluster: Cluster
    network: str
    namespaces: tuple[str, ...] = ()


def hold_cluster(wanted: Wanted) -> NoReturn:
    """Start the cluster, say so in one line of JSON, and keep it until SIGTERM. What is wrong before that is raised."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with hold(wanted.name) as note, ExitStack() as held:
        made = _start(wanted, held)
        write(note, Named(wanted.name, os.getpid(), made.cluster, made.network, made.namespaces))
        click.echo(json.dumps({"address": made.cluster.address, "network": made.network}))
        _let_go_of_the_terminal()
        while True:
            signal.pause()


def _start(wanted: Wanted, held: ExitStack) -> Held:
    if wanted.link is None:
        return Held(_on_loopback(wanted, held), LOOPBACK)
    try:
        network = held.enter_context(Network(wanted.link))
        return _in_laboratory(wanted, network, held)
    except UsageError as error:
        if error.code not in ("E130", "E131"):
            raise
        why = f"{LOOPBACK}, without latency: {error.what}, and got {error.got}"
        return Held(_on_loopback(wanted, held), why)


def _on_loopback(wanted: Wanted, held: ExitStack) -> Cluster:
    plans = plan_nodes(wanted.nodes, wanted.cpus, wanted.store_bytes)
    keeping = Keeping()
    held.callback(keeping.close)
    return keeping.start(plans)


def _in_laboratory(wanted: Wanted, network: Network, held: ExitStack) -> Held:
    plans = plan_nodes(wanted.nodes, wanted.cpus, wanted.store_bytes)
    made = held.enter_context(
        RayCluster(
            network, [plan.name for plan in plans],
            cpus=plans[0].cpus, object_store_mb=plans[0].store_bytes // 1_000_000,
        )
    )  # fmt: skip
    assert wanted.link is not None
    words = [f"{wanted.link.delay_ms:g} ms one way"]
    if wanted.link.bandwidth_mbit is not None:
        words.append(f"{wanted.link.bandwidth_mbit:g} Mbit/s")
    if wanted.link.loss:
        words.append(f"{wanted.link.loss:.1%} lost")
    return Held(made.cluster, f"laboratory: {', '.join(words)}", made.head.namespaces)


def _leave(*_: object) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _let_go_of_the_terminal() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
