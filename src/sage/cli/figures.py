"""Numbers, times and tables as text that fits the width of a terminal."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence

from sage.flow.admission import EndpointFigures
from sage.runtime.outcome import JobSnapshot
from sage.runtime.stats import StepSnapshot

WINDOW = 10
"""Snapshots over which the rate of a moment is taken: two seconds on a terminal."""
SMALLEST_NAME = 14
GAP = "  "
STOPPING = "stopping: finishing what is in flight (Ctrl-C again to end at once)"
MARK = "> "


class Rates:
    """Records per second of every step: over the last `WINDOW` snapshots that were `see`n."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, Mapping[str, int]]] = deque(maxlen=WINDOW)

    def see(self, snapshot: JobSnapshot) -> None:
        counts = {step.name: step.received for step in snapshot.steps}
        self._seen.append((snapshot.elapsed_s, snapshot.account.read, counts))

    def of(self, step: str) -> float:
        (first_s, _, first), (last_s, _, last) = self._ends()
        return (last[step] - first[step]) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def read(self) -> float:
        """Records per second that the sources bring."""
        (first_s, first, _), (last_s, last, _) = self._ends()
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def _ends(self) -> tuple[tuple[float, int, Mapping[str, int]], tuple[float, int, Mapping[str, int]]]:
        last = self._seen[-1]
        return (self._seen[0] if len(self._seen) > 1 else (0.0, 0, dict.fromkeys(last[2], 0))), last


def count(number: float) -> str:
    """Exact up to five digits, then in thousands and so on: at most seven characters."""
    if 0 < number < 10 and number != int(number):
        return f"{number:.1f}"
    if number < 99_999.5:
        return f"{number:,.0f}"
    for unit in "kMG":
        number /= 1000
        if number < 999.95:
            return f"{number:.4g}{unit}"
    return f"{number / 1000:.4g}T"


def seconds(value_s: float | None) -> str:
    """A short time with its unit."""
    if value_s is None:
        return "-"
    if value_s < 0.000_999_5:
        return f"{value_s * 1e6:.0f} us"
    if value_s < 0.999_5:
        return f"{value_s * 1e3:.3g} ms"
    return f"{value_s:.3g} s" if value_s < 99.5 else f"{value_s:,.0f} s"


def clock(elapsed_s: float) -> str:
    """``mm:ss``, or ``h:mm:ss``."""
    minutes, rest = divmod(int(elapsed_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def step_table(
    steps: Sequence[StepSnapshot], rates: Mapping[str, float], bottleneck: str | None, width: int, *, running: bool
) -> list[str]:
    """A line of headings and a line per step, at most `width` wide: what is zero throughout is left out, and what is
    dearest to lose stays longest."""
    columns = {
        "records": [count(step.received) for step in steps],
        "rate/s": [count(rates[step.name]) for step in steps],
        "in flight": [count(step.in_flight) for step in steps] if running else [],
        "waiting": [count(step.waiting) for step in steps] if running else [],
        "p50": [seconds(step.p50_s) for step in steps],
        "p99": [seconds(step.p99_s) for step in steps],
        "retries": _unless_zero([step.retries for step in steps]),
        "dead": _unless_zero([step.dead_lettered for step in steps]),
        "parked": _unless_zero([step.parked for step in steps]) if running else [],
    }
    names = [f"{MARK if step.name == bottleneck else ' ' * len(MARK)}{step.name}" for step in steps]
    return columns_as_text("  step", names, {title: cells for title, cells in columns.items() if cells}, width)


def endpoint_line(found: EndpointFigures) -> str:
    """An endpoint and how busy it is, on one line."""
    parts = [
        f"{found.in_flight:,} of {found.limit:,} in flight",
        f"{found.waiting:,} waiting",
        f"{count(found.tokens_per_s)} tokens/s",
    ]
    if found.parked:
        parts.append(f"asked to wait {found.parked:,} times")
    if found.opens_in_s is None:
        parts.append("being tried")
    elif not found.is_open:
        parts.append(f"left alone for {seconds(found.opens_in_s)}")
    return f"{found.name}  {', '.join(parts)}"


def line_width() -> int:
    """Characters that a line of the terminal has room for; 99 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns - 1


def columns_as_text(
    heading: str,
    names: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    width: int,
    spare: Sequence[str] = ("p50", "retries"),
) -> list[str]:
    """Right-aligned `columns` behind one of `names`; to fit `width`, those in `spare` are left out and names cut."""
    widths = {title: max(map(len, [title, *cells])) for title, cells in columns.items()}
    for title in spare:
        if _room(widths, width) < SMALLEST_NAME:
            widths.pop(title, None)
    room = max(min(_room(widths, width), max(map(len, [heading, *names]))), SMALLEST_NAME)
    lines = [heading.ljust(room) + "".join(GAP + title.rjust(wide) for title, wide in widths.items())]
    for index, name in enumerate(names):
        cut = name if len(name) <= room else name[: room - 3] + "..."
        cells = "".join(GAP + columns[title][index].rjust(wide) for title, wide in widths.items())
        lines.append(cut.ljust(room) + cells)
    return lines


def _room(widths: Mapping[str, int], width: int) -> int:
    return width - sum(len(GAP) + wide for wide in widths.values())


def _unless_zero(numbers: Sequence[int]) -> list[str]:
    return [count(number) if number else "-" for number in numbers] if any(numbers) else []
