"""The table of all bars: ``python -m benchmarks.queues [KIND...]``.

A ratio above 1: SAGE is better. Every figure is the median of several rounds in which SAGE and its peers take turns,
and every item is compared at the consumer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.queues.harness import Lost, NotMeasured, Row

KINDS = ("local", "shared_memory", "rpc", "many", "ray", "ray_nodes")
"""Modules of this folder, in the order of the table."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, median of {arguments.rounds} rounds")
    rows: dict[str, list[Row]] = {}
    absent: dict[str, NotMeasured] = {}
    for kind in arguments.kinds:
        print(f"\n{kind:<54} {'SAGE':>14} {'peer':>14} {'':<16} {'ratio':>7} {'bar':>15}", flush=True)
        rows[kind] = []
        try:
            for row in import_module(f"benchmarks.queues.{kind}").rows(arguments.rounds):
                rows[kind].append(row)
                print(line(row), flush=True)
        except NotMeasured as reason:
            absent[kind] = reason
            print(f"  not measured: {reason}", flush=True)
    bars = [row for of_kind in rows.values() for row in of_kind if row.met is not None]
    print(f"\n{sum(row.met is True for row in bars)} of {len(bars)} bars are met", end="")
    print("".join(f"; {kind} is not complete" for kind in absent))
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores + 1:
        print(f"the machine was busy with other things (load {load:.1f} on {cores} cores): measure again")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({kind: [*map(asdict, of_kind)] for kind, of_kind in rows.items()}, indent=1)
        )
    return 1 if any(isinstance(reason, Lost) for reason in absent.values()) else 0


def line(row: Row) -> str:
    """A row of the table."""
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:,.2f}"
    text = f"  {row.what:<52} {row.sage:>14} {row.peer:>14} {row.peer_name:<16} {ratio:>7} {row.bar:>15}  {verdict}"
    return text.rstrip()


if __name__ == "__main__":
    sys.exit(main())
