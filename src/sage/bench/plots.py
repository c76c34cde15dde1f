"""Pictures for a paper: PNG and SVG, axes with units, colours and markers that all eyes and printers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from sage.bench.case import Case
from sage.bench.experiment import Column, Plot
from sage.bench.suite import Report
from sage.errors import MissingDependency

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, without yellow and black."""
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "\\\\", "--")
WIDTH, HEIGHT = 4.6, 3.1
TITLE_PAD = 18
"""Points above the bars, where their legend stands."""
ROOM = 56
"""Letters below all bars together."""
FEW = 8
"""Bars whose names have room in letters of the usual size."""
LINE = 60
"""Letters of a title."""
LARGE = 1e5
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "sage",
    "savefig.dpi": 300,
}


def plots_of(report: Report) -> list[Plot]:
    """Those that there is something to draw in."""
    return [plot for plot in report.experiment.plots if _lines_of(report, plot)]


class Painter:
    """Draws the plots of a report. Raises `MissingDependency` when made without matplotlib."""

    def __init__(self) -> None:
        try:
            import matplotlib as mpl
            from matplotlib import figure, ticker
        except ImportError as error:
            raise MissingDependency("matplotlib", "bench", "drawing plots") from error
        mpl.rcParams.update(STYLE)
        self._figure = figure.Figure
        self._ticker = ticker

    def _number(self, axes: Any) -> None:
        """From zero, and no marker cut; large numbers as people write them."""
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_locator(self._ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_formatter(self._ticker.NullFormatter())
            axes.yaxis.set_major_formatter(self._ticker.StrMethodFormatter("{x:,g}"))
            return
        top = axes.dataLim.ymax * 1.06
        axes.set_ylim(0, top)
        large = self._ticker.EngFormatter(sep=" ")
        axes.yaxis.set_major_formatter(large if top > LARGE else self._ticker.StrMethodFormatter("{x:,g}"))

    def paint(self, report: Report, plot: Plot, path: Path) -> None:
        """Write a picture to `path`, in the format that its name says."""
        picture = self._figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = picture.add_subplot()
        {"lines": _lines, "bars": _bars, "stacked": _stacked}[plot.kind](axes, report, plot)
        axes.set_ylabel(plot.y_label)
        self._number(axes)
        axes.set_title(f"{plot.title}\n{fill(report.label, LINE)}", loc="left", pad=_pad(axes, plot))
        picture.savefig(path, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _pad(axes: Any, plot: Plot) -> float | None:
    return TITLE_PAD if plot.kind == "bars" and axes.get_legend() is not None else None


def _lines(axes: Any, report: Report, plot: Plot) -> None:
    ticks: dict[float, str] = {}
    number = 0
    lines = _lines_of(report, plot)
    for name, cases in lines.items():
        for column in plot.columns:
            label = column.title if len(plot.columns) > 1 else name
            shown = [case for case in cases if _has(report, case, column)]
            if shown:
                _line(axes, report, plot, shown, column, number=number, label=label)
                number += 1
        ticks |= {plot.x(case): _tick(plot, case) for case in cases}
        if plot.ideal:
            first = report.figures[cases[0].name][plot.columns[0].figure].median * plot.columns[0].factor
            xs = [plot.x(case) for case in cases]
            axes.plot(xs, [first * x / xs[0] for x in xs], ":", color="grey", linewidth=1, zorder=1)
    if plot.ideal:
        axes.plot([], [], ":", color="grey", linewidth=1, label="n times the first")
    if plot.ideal and plot.log_x:
        axes.set_yscale("log")
    if plot.log_x:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.minorticks_off()
    axes.set_xlabel(plot.x_label)
    if number > 1 or plot.ideal:
        axes.legend()


def _lines_of(report: Report, plot: Plot) -> dict[str, list[Case]]:
    """Cases by the name of their line, from left to right."""
    found: dict[str, list[Case]] = {}
    for case in report.cases:
        name = plot.line(case)
        if name is not None:
            found.setdefault(name, []).append(case)
    return {name: sorted(cases, key=plot.x) for name, cases in found.items() if plot.points or len(cases) > 1}


def _tick(plot: Plot, case: Case) -> str:
    x = plot.x(case)
    name = case.name.removeprefix(case.series).strip()
    return name if name.isalpha() else f"{x:g}"


def _line(
    axes: Any, report: Report, plot: Plot, cases: Sequence[Case], column: Column, *, number: int, label: str
) -> None:
    values, errors = _values(report, cases, column)
    axes.errorbar(
        [plot.x(case) for case in cases],
        values,
        yerr=errors,
        label=label,
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4.5,
        linewidth=1.4,
        capsize=2.5,
    )


def _bars(axes: Any, report: Report, plot: Plot) -> None:
    groups = _lines_of(report, plot)
    shown = [case for case in report.cases if plot.line(case) is not None]
    xs = sorted({plot.x(case) for case in shown})
    grouped = len(groups) > 1 and len(xs) < len(shown)
    sets = [(name, plot.columns[0]) for name in groups] if grouped else [("", column) for column in plot.columns]
    width = 0.8 / len(sets)
    for number, (group, column) in enumerate(sets):
        cases = [case for case in (groups[group] if grouped else shown) if _has(report, case, column)]
        places = [xs.index(plot.x(case)) + (number - (len(sets) - 1) / 2) * width for case in cases]
        values, errors = _values(report, cases, column)
        axes.bar(
            places, values, width, yerr=errors, capsize=2, color=COLOURS[number], hatch=HATCHES[number],
            edgecolor="white", linewidth=0.5, label=group or column.title,
        )  # fmt: skip
    _name_bars(axes, [next(case for case in shown if plot.x(case) == x) for x in xs], first_word=grouped)
    axes.set_xlabel(plot.x_label)
    if len(sets) > 1:
        axes.legend(ncols=len(sets), loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)


def _name_bars(axes: Any, cases: Sequence[Case], *, first_word: bool) -> None:
    names = [case.name.split(" ")[0] if first_word else case.name.removesuffix(f" {case.series}") for case in cases]
    wide = max(8, ROOM // len(names))
    lines = [fill(name.replace("_", " "), wide, break_long_words=False) for name in names]
    size = "xx-small" if len(names) > FEW else "small" if max(map(len, names)) > wide else "medium"
    axes.set_xticks(range(len(names)), lines, fontsize=size)
    axes.grid(visible=False, axis="x")


def _stacked(axes: Any, report: Report, plot: Plot) -> None:
    bottoms = [0.0] * len(report.cases)
    for number, column in enumerate(plot.columns):
        values, _ = _values(report, report.cases, column)
        axes.bar(
            range(len(values)), values, 0.7, bottom=bottoms, color=COLOURS[number], hatch=HATCHES[number],
            edgecolor="white", linewidth=0.5, label=column.title.split(" (", maxsplit=1)[0],
        )  # fmt: skip
        bottoms = [below + value for below, value in zip(bottoms, values, strict=True)]
    _name_bars(axes, report.cases, first_word=False)
    axes.set_xlabel(plot.x_label)
    axes.legend()


def _has(report: Report, case: Case, column: Column) -> bool:
    return column.figure in report.figures[case.name]


def _values(report: Report, cases: Sequence[Case], column: Column) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far their intervals reach below and above."""
    found = [report.figures[case.name][column.figure] for case in cases]
    values = [each.median * column.factor for each in found]
    below = [(each.median - each.low) * column.factor if each.low is not None else 0.0 for each in found]
    above = [(each.high - each.median) * column.factor if each.high is not None else 0.0 for each in found]
    return values, [below, above]
