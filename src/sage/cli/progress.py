"""What is shown while a job runs: plain lines now and then, or nothing. (A terminal gets the table of `live.py`.)"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from sage.cli.figures import STOPPING, Rates, clock, count
from sage.cli.stderr import say
from sage.runtime.outcome import JobSnapshot

FIRST_LINE_S = 2.0
LINE_EVERY_S = 5.0


class View(AbstractContextManager["View"], Protocol):
    """Shows a job while it runs; entered before it is shown, left when the job has ended."""

    def show(self, snapshot: JobSnapshot) -> None:
        """The figures as they stand, several times a second."""


class NoView:
    """Says nothing, but that the job is stopping: whoever pressed Ctrl-C waits for a sign."""

    def __init__(self) -> None:
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, snapshot: JobSnapshot) -> None:
        if snapshot.stopping and not self._told:
            self._told = True
            say(STOPPING)


class PlainView(NoView):
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        super().__init__()
        self._rates = Rates()
        self._next_s = FIRST_LINE_S

    def show(self, snapshot: JobSnapshot) -> None:
        super().show(snapshot)
        if snapshot.elapsed_s >= self._next_s:
            self._next_s = snapshot.elapsed_s + LINE_EVERY_S
            self._rates.see(snapshot)
            say(progress_line(snapshot, self._rates.read))


def progress_line(snapshot: JobSnapshot, rate: float) -> str:
    """Where a job stands, on one line."""
    account = snapshot.account
    parts = [
        f"{snapshot.pipeline} {clock(snapshot.elapsed_s)}: read {account.read:,} ({count(rate)}/s)",
        f"written {account.written:,}",
        f"in flight {account.unfinished:,}",
    ]
    if account.dead_lettered:
        parts.append(f"dead letters {account.dead_lettered:,}")
    if snapshot.stalled is not None:
        parts.append(f"nothing moves: {snapshot.stalled}")
    elif snapshot.bottleneck is not None:
        parts.append(f"bottleneck {snapshot.bottleneck}")
    return ", ".join(parts)


def view_for(*, quiet: bool) -> View:
    """The view that suits standard error."""
    if quiet:
        return NoView()
    if sys.stderr is not None and sys.stderr.isatty():
        from sage.cli.live import live_view  # rich takes longer to import than all of SAGE

        return live_view() or PlainView()
    return PlainView()
