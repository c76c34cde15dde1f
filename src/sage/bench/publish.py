"""Everything that is made of measured experiments, in their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sage.bench.page import Section, page
from sage.bench.plots import Painter, plots_of
from sage.bench.results import Results
from sage.bench.suite import Report
from sage.bench.texts import comparison, summary, table


def publish(report: Report, folder: Path) -> Section:
    """metrics.json, summary.txt, comparison.txt, tables.tex, plots, and report.html of one experiment, in its folder.

    Raises `MissingDependency` without matplotlib, after all that needs no plots was written.
    """
    results = Results(folder / report.experiment.name)
    compared = _texts(report, results)
    section = Section(report, _plots(report, results), compared)
    results.write("report.html", page([section]))
    return section


def publish_all(sections: Sequence[Section], folder: Path) -> None:
    """The same texts, and one page, for several experiments that were published."""
    everything = Results(folder)
    everything.write("summary.txt", "\n".join(summary(each.report) for each in sections))
    everything.write("comparison.txt", "\n".join(each.compared for each in sections))
    everything.write("tables.tex", "\n".join(table(each.report) for each in sections))
    everything.write("report.html", page(sections))


def _texts(report: Report, results: Results) -> str:
    compared = comparison(report, results.previous())
    results.write("metrics.json", json.dumps(report.to_dict(), indent=1))
    results.write("summary.txt", summary(report))
    results.write("comparison.txt", compared)
    results.write("tables.tex", table(report))
    return compared


def _plots(report: Report, results: Results) -> dict[str, bytes]:
    """PNG by title."""
    painter = Painter()
    painted = {}
    for plot in plots_of(report):
        for kind in ("png", "svg"):
            results.make(f"{plot.name}.{kind}", lambda path, plot=plot: painter.paint(report, plot, path))  # type: ignore[misc]
        painted[plot.title] = (results.folder / f"{plot.name}.png").read_bytes()
    return painted
