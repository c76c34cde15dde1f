"""The table of a terminal while a job runs."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sage.cli.figures import MARK, STOPPING, Rates, clock, count, endpoint_line, seconds, step_table
from sage.runtime.outcome import JobSnapshot


class LiveView:
    """A table of the steps that is drawn again with every snapshot, by the thread that calls `show`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates = Rates()
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: JobSnapshot) -> None:
        self._rates.see(snapshot)
        self._live.update(self._drawn(snapshot), refresh=True)

    def _drawn(self, snapshot: JobSnapshot) -> Text:
        rates = {step.name: self._rates.of(step.name) for step in snapshot.steps}
        width = self._console.width - 1
        table = step_table(snapshot.steps, rates, snapshot.bottleneck, width, running=True)
        lines = [Text(_head(snapshot, self._rates.read)), Text(table[0], "dim")]
        lines += [Text(line, "yellow" if line.startswith(MARK) else "") for line in table[1:]]
        lines += [Text(endpoint_line(each), "dim" if each.is_open else "yellow") for each in snapshot.endpoints]
        lines += [Text(f"began again: {loss}", "yellow") for loss in snapshot.restarts[-1:]]
        lines.append(_foot(snapshot))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        drawn = Text("\n", no_wrap=True).join(lines)
        drawn.no_wrap = True
        return drawn


def _head(snapshot: JobSnapshot, rate: float) -> str:
    account = snapshot.account
    parts = [
        snapshot.pipeline,
        clock(snapshot.elapsed_s),
        f"{account.read:,} read",
        f"{account.written:,} written",
        f"{count(rate)}/s",
    ]
    if snapshot.p50_s is not None:
        parts.append(f"p50 {seconds(snapshot.p50_s)}  p99 {seconds(snapshot.p99_s)}")
    return "  ".join(parts)


def _foot(snapshot: JobSnapshot) -> Text:
    if snapshot.stopping:
        return Text(STOPPING, "bold yellow")
    if snapshot.stalled is not None:
        return Text(f"nothing moves: {snapshot.stalled}", "bold yellow")
    parked = next((step for step in snapshot.steps if step.parked), None)
    if parked is not None:
        return Text(f"{parked.name}: {parked.parked:,} wait: {parked.parked_reason}", "yellow")
    waiting = next((step for step in snapshot.steps if step.turns), None)
    if waiting is not None and waiting.name == snapshot.bottleneck:
        return Text(f"> bottleneck: the endpoint; {waiting.name} waits for it", "dim")
    busiest = next((step for step in snapshot.steps if step.name == snapshot.bottleneck), None)
    if busiest is None:
        return Text("starting", "dim")
    slots = f"its {busiest.slots} slots are" if busiest.slots > 1 else "it is"
    return Text(f"> bottleneck: {slots} {busiest.utilisation(snapshot.elapsed_s):.0%} busy", "dim")


def live_view() -> LiveView | None:
    """The view, if standard error is a terminal on which lines can be drawn again."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    return LiveView(console) if console.is_interactive else None
