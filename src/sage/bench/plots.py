"""Pictures for a paper: PNG and SVG, axes with units, colours and markers that all eyes and printers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage.bench.case import Case
from sage.bench.experiment import Column, Plot
from sage.bench.suite import Report
from sage.bench.texts import title
from sage.errors import MissingDependency

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, without yellow and black."""
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "\\\\", "--")
WIDTH, HEIGHT = 4.6, 3.1
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
    "figure.dpi": 200,
}


class Painter:
    """Draws the plots of a report. Raises `MissingDependency` when made without matplotlib."""

    def __init__(self) -> None:
        try:
            import matplotlib as mpl
            from matplotlib import figure
        except ImportError as error:
            raise MissingDependency("matplotlib", "bench", "drawing plots") from error
        mpl.rcParams.update(STYLE)
        self._figure = figure.Figure

    def paint(self, report: Report, plot: Plot, paths: Sequence[Path]) -> None:
        """Write one picture to each of `paths`, in the format that its name says."""
        picture = self._figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = picture.add_subplot()
        {"lines": _lines, "bars": _bars, "stacked": _stacked}[plot.kind](axes, report, plot)
        axes.set_ylabel(plot.y_label)
        if axes.get_yscale() != "log":
            axes.set_ylim(bottom=0)
        axes.set_title(f"{plot.title}\n{report.label}", loc="left")
        for path in paths:
            picture.savefig(path, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(axes: Any, report: Report, plot: Plot) -> None:
    ticks: dict[float, str] = {}
    number = 0
    for series in _series(report):
        cases = [case for case in report.cases if case.series == series]
        for column in plot.columns:
            label = column.title if len(plot.columns) > 1 else series
            _line(
                axes, report, [case for case in cases if _has(report, case, column)], column, number=number, label=label
            )
            number += 1
        ticks |= {case.x: case.name.removeprefix(series).strip() for case in cases}
        if plot.ideal:
            first = report.figures[cases[0].name][plot.columns[0].figure].median * plot.columns[0].factor
            xs = [case.x for case in cases]
            axes.plot(xs, [first * x / xs[0] for x in xs], ":", color="grey", linewidth=1, zorder=1)
    if plot.ideal:
        axes.plot([], [], ":", color="grey", linewidth=1, label="n times the first")
        axes.set_yscale("log")
    if plot.log_x:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.minorticks_off()
    axes.set_xlabel(plot.x_label)
    if number > 1 or plot.ideal:
        axes.legend()


def _line(axes: Any, report: Report, cases: Sequence[Case], column: Column, *, number: int, label: str) -> None:
    values, errors = _values(report, cases, column)
    axes.errorbar(
        [case.x for case in cases],
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
    groups = _series(report)
    columns = plot.columns
    grouped = len(groups) > 1 and len({case.x for case in report.cases}) < len(report.cases)
    sets = [(group, columns[0]) for group in groups] if grouped else [("", column) for column in columns]
    xs: list[float] = sorted({case.x for case in report.cases}) if grouped else []
    width = 0.8 / len(sets)
    for number, (group, column) in enumerate(sets):
        cases = [case for case in report.cases if not grouped or case.series == group]
        cases = [case for case in cases if _has(report, case, column)]
        places = [xs.index(case.x) if grouped else report.cases.index(case) for case in cases]
        values, errors = _values(report, cases, column)
        axes.bar(
            [place + (number - (len(sets) - 1) / 2) * width for place in places], values, width, yerr=errors, capsize=2,
            color=COLOURS[number], hatch=HATCHES[number], edgecolor="white", linewidth=0.5, label=group or column.title,
        )  # fmt: skip
    _name_bars(axes, report, xs if grouped else None)
    axes.set_xlabel(plot.x_label)
    if len(sets) > 1:
        axes.margins(y=0.25)  # the legend stands above the bars
        axes.legend(ncols=len(sets), loc="upper right")


def _name_bars(axes: Any, report: Report, xs: Sequence[float] | None) -> None:
    if xs is None:
        names = [title(case).split(" (")[0] for case in report.cases]
    else:
        names = [next(case.name.split(" ")[0] for case in report.cases if case.x == x) for x in xs]
    long = max(map(len, names)) > 7 or len(names) > 8
    axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
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
    _name_bars(axes, report, None)
    axes.set_xlabel(plot.x_label)
    axes.legend()


def _series(report: Report) -> list[str]:
    return list(dict.fromkeys(case.series for case in report.cases))


def _has(report: Report, case: Case, column: Column) -> bool:
    return column.figure in report.figures[case.name]


def _values(report: Report, cases: Sequence[Case], column: Column) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far their intervals reach below and above."""
    found = [report.figures[case.name][column.figure] for case in cases]
    values = [each.median * column.factor for each in found]
    below = [(each.median - each.low) * column.factor if each.low is not None else 0.0 for each in found]
    above = [(each.high - each.median) * column.factor if each.high is not None else 0.0 for each in found]
    return values, [below, above]
