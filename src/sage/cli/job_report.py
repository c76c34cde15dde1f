"""A job of the job manager, in words for people; what a job and a row have is what the manager answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sage.cli.figures import clock, columns_as_text, count, line_width, seconds
from sage.cli.why import placements, routes, times
from sage.errors import shorten
from sage.flow.admission import EndpointFigures
from sage.jobs.states import State
from sage.runtime.account import Account
from sage.runtime.outcome import JobSnapshot, Status
from sage.runtime.stats import StepSnapshot

EXIT_CODES = {State.FAILED: 9, State.LOST: 9, State.CANCELLED: 130}
"""Of `sage job watch`, where the job itself did not say."""
SILENT_S = 5.0
"""After which figures are too old to be taken for those of now."""
SMALLEST_NOTE = 12


def exit_code_of(found: Mapping[str, Any]) -> int:
    """What `sage run` would have exited with."""
    error = next((result["error"] for result in reversed(found["results"]) if result.get("error")), None)
    if found["state"] == State.FAILED and error is not None:
        return int(error.get("exit_code", EXIT_CODES[State.FAILED]))
    return EXIT_CODES.get(State(found["state"]), 0)


def snapshot_of(found: Mapping[str, Any]) -> JobSnapshot | None:
    """The figures of a job that runs; None while it has none."""
    figures = found["figures"]
    if figures is None or "stopping" not in figures:
        return None
    return JobSnapshot(
        pipeline=figures["pipeline"],
        status=Status(figures["status"]),
        stopping=figures["stopping"],
        elapsed_s=figures["elapsed_s"],
        account=Account(**figures["account"]),
        steps=tuple(map(_step_of, figures["steps"])),
        p50_s=figures["p50_s"],
        p99_s=figures["p99_s"],
        restarts=tuple(figures["restarts"]),
    )


def _step_of(figures: Mapping[str, Any]) -> StepSnapshot:
    endpoints = tuple(EndpointFigures(**each) for each in figures["endpoints"])
    return StepSnapshot(**{**figures, "endpoints": endpoints})


def table(jobs: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A line of headings and a line per job; what can be spared is left out where `width` is small."""
    columns = {
        "state": [_short_state(found) for found in jobs],
        "runs for": [_or_dash(clock, found["elapsed_s"]) for found in jobs],
        "read": [_or_dash(count, found["read"]) for found in jobs],
        "written": [_or_dash(count, found["written"]) for found in jobs],
        "dead": [_or_dash(count, found["dead_lettered"]) for found in jobs],
    }
    names = [f"{found['id']}  {found['name']}" for found in jobs]
    lines = columns_as_text("job", names, columns, width, ("dead", "runs for", "read"))
    notes = ["", *(shorten(_note(found), 300) for found in jobs)]
    room = width - len(lines[0]) - 2
    if room < SMALLEST_NOTE:
        return lines
    return [f"{line}  {shorten(note, room)}".rstrip() for line, note in zip(lines, notes, strict=True)]


def described(found: Mapping[str, Any]) -> Iterator[str]:
    spec = found["spec"]
    yield f"{found['id']}  {found['name']}: {found['state']}"
    if note := _note(found):
        yield f"  {shorten(note, 1000)}"
    yield f"  file      {shorten(spec['file'], 300)}"
    yield f"  runs in   {shorten(spec['folder'], 300)}"
    if spec["arguments"]:
        yield f"  arguments {shorten(' '.join(spec['arguments']), 300)}"
    yield f"  folder    {shorten(found['folder'], 300)}"
    if found["process"] is not None:
        yield f"  process   {found['process']}"
    yield f"  submitted {_moment(found['submitted_at'])}, priority {found['priority']}"
    for change in found["changes"]:
        yield f"  {_moment(change['at'])}  {change['state']}"
    figures = found["figures"]
    if figures is not None:
        account = Account(**figures["account"])
        yield f"  {figures['pipeline']}: {account} in {seconds(figures['elapsed_s'])}"
        for step in figures["steps"]:
            latency = "" if step["p50_s"] is None else f", p50 {seconds(step['p50_s'])}, p99 {seconds(step['p99_s'])}"
            yield f"    {step['name']}: {step['received']:,} records, {step['in_flight']:,} in flight{latency}"


def explained(found: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why it is where it is: `jobs` are all that there are."""
    yield "why"
    for change in found["changes"]:
        if change["reason"]:
            yield f"  {change['state']}: {shorten(change['reason'], 500)}"
    if found["state"] == State.PENDING:
        for other in sorted((one for one in jobs if one["position"]), key=lambda one: one["position"]):
            mark = "this" if other["id"] == found["id"] else other["id"]
            yield f"  place {other['position']}: {mark}, urgency {other['urgency']:.1f}, {other['reason']}"
    share = found["max_in_flight"]
    if share is not None:
        yield f"  share: {share:,} records in flight, by weight {found['spec']['weight']:g}"
    figures = found["figures"]
    if figures is not None:
        for host in figures.get("hosts", ()):
            took = "" if host["service_s"] is None else f", {seconds(host['service_s'])} a record"
            memory = f"{host['memory_bytes'] / 1e6:,.0f} MB, start {host['attempt']}"
            yield f"  {host['name']}: {host['slots']:,} slots, {host['in_flight']:,} records in flight{took}, {memory}"
        for line in (*placements(figures.get("placed", ())), *routes(figures.get("routes", ()))):
            yield f"  {line}"
        for step in sorted(figures["steps"], key=lambda step: -step["busy_s"]):
            busy = step["busy_s"] / max(1e-9, figures["elapsed_s"] * step["slots"]) if step["slots"] else 0.0
            yield f"  {step['name']}: {busy:.0%} of {step['slots']:,} slots busy, {step['waiting']:,} records wait"
            if step["load"]:
                yield f"    its buffer is {step['load']:.0%} full, {step['load_trend_per_s']:+.0%} a second"
        for line in times(figures["steps"], line_width() - 2):
            yield f"  {line}"
        if figures.get("bottleneck"):
            yield f"  {figures['bottleneck']} is what all others wait for"


def _note(found: Mapping[str, Any]) -> str:
    """What there is to say about the state of a job."""
    if found["state"] == State.PENDING:
        if not found["position"]:
            return "is about to start"
        soon = "" if found["starts_in_s"] is None else f"; starts in about {seconds(found['starts_in_s'])}"
        return f"place {found['position']}: {found['reason']}{soon}"
    if found["stalled"]:
        return f"nothing moves: {found['stalled']}"
    if found["silent_s"] is not None and found["silent_s"] > SILENT_S:
        return f"silent for {seconds(found['silent_s'])}"
    return str(found["reason"])


def _short_state(found: Mapping[str, Any]) -> str:
    state = str(found["state"])
    return "DEAD LETTERS" if state == State.SUCCEEDED_WITH_DEAD_LETTERS else state


def _or_dash(form: Any, number: float | None) -> str:
    return "-" if number is None else str(form(number))


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
