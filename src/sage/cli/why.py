"""Why a run is where it is: the decisions of its scheduler, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sage.cli.figures import columns_as_text, seconds

MOST_CANDIDATES = 8
"""Of a decision: a large cluster has more than anybody reads."""
MOST_PLACED = 40


def placements(placed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each instance: where it is, the scores of all that it could have been, why."""
    for one in placed[:MOST_PLACED]:
        scores = _scored(one["scores"])
        yield f"{one['task']}/{one['instance']} is in {one['where']}: {one['reason']} ({scores})"
    if len(placed) > MOST_PLACED:
        yield f"and {len(placed) - MOST_PLACED} more instances"


def routes(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """For each task of several hosts: who got how much, and the last decision."""
    for route in found:
        hosts, each_s = route["hosts"], seconds(route["cost_s"])
        yield f"{route['task']}: {route['scheduler']} gives work to {len(hosts)} hosts, {each_s} a record"
        for host in hosts[:MOST_CANDIDATES]:
            given = f"{host['given']:,} pieces given, {host['outstanding']} there"
            yield f"  {host['host']}: speed {host['speed']:.2f}, {given}"
        if route["reason"]:
            yield f"  last decision: {route['reason']} ({_scored([(each['host'], each['score']) for each in hosts])})"


def times(steps: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    """Where the time of a record went, as a table: when each step took it up, and what it did then."""
    told = [step for step in steps if step["received"]]
    columns = {
        "begins after": [seconds(step.get("begins_s")) for step in told],
        "takes": [seconds(step["busy_s"] / step["received"]) for step in told],
    }
    if any(step.get("waits_s") for step in told):
        columns["of it waits"] = [seconds(step["waits_s"] / step["received"] or None) for step in told]
    if told:
        yield from columns_as_text("a record, on average", [step["name"] for step in told], columns, width)


def _scored(scores: Sequence[Sequence[Any]]) -> str:
    told = [f"{name} {'-' if score is None else format(score, '.3g')}" for name, score in scores[:MOST_CANDIDATES]]
    return ", ".join([*told, f"{len(scores) - MOST_CANDIDATES} more"] if len(scores) > MOST_CANDIDATES else told)
