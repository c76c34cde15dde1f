"""summary.txt, comparison.txt and tables.tex."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sage.bench.case import Case
from sage.bench.experiment import Column
from sage.bench.statistics import SIGNIFICANT, Estimate, p_value
from sage.bench.suite import Report, seeds_of

LARGE = 1e5
Before = tuple[float, Sequence[float]]
"""What a figure is compared with: its median, and all values."""


def summary(report: Report) -> str:
    """Medians, with the half of their confidence interval behind them."""
    columns = shown(report)
    head = ["case", *(column.title for column in columns)]
    rows = [[title(case), *(_plain(report, case, column) for column in columns)] for case in report.cases]
    return "\n".join([*heading(report), "", *_aligned([head, *rows]), "", *notes(report)]) + "\n"


def _plain(report: Report, case: Case, column: Column) -> str:
    return cell(report.figures[case.name].get(column.figure), column, spread=" +-", nothing="-")


def heading(report: Report) -> list[str]:
    """What it is and what it ran on."""
    where = report.environment
    return [
        f"{report.experiment.title}: {report.label}",
        f"SAGE {where['sage']}, Python {where['python']}, {where['processor']}, {where['cores']} cores, "
        f"load {where['load_before']} before; seeds {', '.join(map(str, seeds_of(report.options)))}",
    ]


def notes(report: Report) -> list[str]:
    """How to read the figures."""
    repeats = report.options.repeats
    spread = (
        f"Medians of {repeats} repeats; +- is half of the 95% bootstrap interval of the median."
        if repeats > 1
        else "One repeat: nothing is known of the spread."
    )
    counted = [
        "The first tenth of the time of each run is warm-up and not counted.",
        "Latency counts from the intended start.",
    ]
    return [spread, *(counted if report.experiment.is_about_records else ()), "No record was lost in any run."]


def comparison(report: Report, previous: Mapping[str, Any] | None) -> str:
    """Against the first case of each series, what was published, and the last run."""
    parts = [
        *heading(report),
        "",
        *_with_baseline(report),
        "",
        *_with_published(report),
        "",
        *_with_last(report, previous),
    ]
    return "\n".join(parts) + "\n"


def _with_baseline(report: Report) -> Iterator[str]:
    yield "Beside the first case of each series, ratios of medians:"

    def first_of_its_series(case: Case, figure: str) -> Before | None:
        first = next(each for each in report.cases if each.series == case.series)
        found = report.figures[first.name].get(figure)
        return None if first is case or found is None else (found.median, found.values)

    yield from _ratios(report, first_of_its_series)


def _with_published(report: Report) -> Iterator[str]:
    published = report.experiment.published
    yield f"Beside {report.experiment.source}:" if published else "There are no published figures for this experiment."
    rows = [["case", "figure", "ours", "published"]]
    for case in report.cases:
        for column in shown(report):
            theirs = published.get(case.name, {}).get(column.figure)
            ours = report.figures[case.name].get(column.figure)
            if theirs is not None and ours is not None:
                rows.append([title(case), column.title, number(ours.median, column), number(theirs, column)])
    if published:
        yield from _aligned(rows)
        yield f"({report.label}: other machines than theirs. Compare shapes and ratios.)"


def _with_last(report: Report, previous: Mapping[str, Any] | None) -> Iterator[str]:
    if previous is None or previous.get("cluster") != report.label:
        yield "There is no earlier run of the same kind to compare with."
        return
    yield f"Beside the last run (SAGE {previous['environment']['sage']}), ratios of medians:"
    before = {case["name"]: case["figures"] for case in previous["cases"]}

    def the_same_before(case: Case, figure: str) -> Before | None:
        found = before.get(case.name, {}).get(figure)
        return None if found is None else (found["median"], found["values"])

    yield from _ratios(report, the_same_before)


def _ratios(report: Report, before: Callable[[Case, str], Before | None]) -> Iterator[str]:
    columns = [column for column in shown(report) if column.better]
    rows = []
    for case in report.cases:
        found = [(report.figures[case.name].get(each.figure), before(case, each.figure)) for each in columns]
        cells = [_ratio(ours, theirs) if ours and theirs else "" for ours, theirs in found]
        rows += [[title(case), *(each or "-" for each in cells)]] if any(cells) else []
    if not rows:
        yield "(nothing to compare)"
        return
    yield from _aligned([["case", *(column.title for column in columns)], *rows])
    if any("(" in each for row in rows for each in row[1:]):
        yield f"(p): how often chance alone parts them so far, by permutations; *: less often than {SIGNIFICANT:.0%}."
    else:
        yield "Too few repeats for a test of significance: it takes four on each side."


def _ratio(ours: Estimate, theirs: Before) -> str:
    if not theirs[0]:
        return ""
    p = p_value(ours.values, theirs[1])
    chance = "" if p is None else f" ({p:.3f})" + ("*" if p < SIGNIFICANT else " ")
    return f"{ours.median / theirs[0]:.3f}{chance}"


def table(report: Report) -> str:
    """A LaTeX table (booktabs)."""
    columns = shown(report)
    caption = re.sub("^Tables? [0-9 and]+: ", "", report.experiment.table)  # LaTeX numbers tables itself
    lines = [
        "\\begin{table}", "  \\centering", f"  \\caption{{{tex(caption)} ({tex(report.label)}).}}",
        f"  \\label{{tab:{report.experiment.name}}}", f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}", "    \\toprule",
        "    " + " & ".join(["case", *(tex(column.title) for column in columns)]) + " \\\\", "    \\midrule",
    ]  # fmt: skip
    for case in report.cases:
        found = report.figures[case.name]
        cells = [cell(found.get(column.figure), column, spread=" $\\pm$ ", nothing="--") for column in columns]
        lines.append("    " + " & ".join([tex(title(case)), *cells]) + " \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}"]) + "\n"


def cell(found: Estimate | None, column: Column, *, spread: str, nothing: str) -> str:
    """The median, and behind `spread` the half of its interval."""
    if found is None:
        return nothing
    half = 0.0 if found.low is None or found.high is None else (found.high - found.low) / 2
    return number(found.median, column) + (f"{spread}{number(half, column)}" if half else "")


def tex(text: str) -> str:
    """`text` as LaTeX shows it."""
    return "".join(f"\\{c}" if c in "%&_#$" else c for c in text)


def shown(report: Report) -> list[Column]:
    """The columns of which there is at least one figure."""
    return [
        column
        for column in report.experiment.columns
        if any(column.figure in figures for figures in report.figures.values())
    ]


def title(case: Case) -> str:
    """Of a case, in a row of a table."""
    return case.name if not case.series or case.series.split(",")[0] in case.name else f"{case.name} ({case.series})"


def number(value: float, column: Column) -> str:
    """In the column's unit."""
    scaled = value * column.factor
    return f"{scaled:,.{0 if abs(scaled) >= LARGE else column.digits}f}"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells)
