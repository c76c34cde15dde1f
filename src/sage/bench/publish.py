"""Everything that is made of measured experiments, in their folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sage.bench.page import page
from sage.bench.plots import Painter, plots_of
from sage.bench.results import Results
from sage.bench.suite import Report
from sage.bench.texts import comparison, summary, table


def publish(reports: Sequence[Report], folder: Path) -> None:
    """metrics.json, summary.txt, comparison.txt, tables.tex, plots, and report.html; of several, also one for all.

    Raises `MissingDependency` without matplotlib, after all that needs no plots was written.
    """
    compared = {report.experiment.name: _texts(report, Results(folder / report.experiment.name)) for report in reports}
    if len(reports) > 1:
        everything = Results(folder)
        everything.write("summary.txt", "\n".join(summary(report) for report in reports))
        everything.write("comparison.txt", "\n".join(compared.values()))
        everything.write("tables.tex", "\n".join(table(report) for report in reports))
    painter = Painter()
    pictures = {report.experiment.name: _plots(report, painter, folder) for report in reports}
    for report in reports:
        Results(folder / report.experiment.name).write("report.html", page([report], pictures, compared))
    if len(reports) > 1:
        Results(folder).write("report.html", page(reports, pictures, compared))


def _texts(report: Report, results: Results) -> str:
    compared = comparison(report, results.previous())
    results.write("metrics.json", json.dumps(report.to_dict(), indent=1))
    results.write("summary.txt", summary(report))
    results.write("comparison.txt", compared)
    results.write("tables.tex", table(report))
    return compared


def _plots(report: Report, painter: Painter, folder: Path) -> dict[str, bytes]:
    """PNG by title."""
    own = folder / report.experiment.name
    painted = {}
    for plot in plots_of(report):
        for kind in ("png", "svg"):
            Results(own).make(f"{plot.name}.{kind}", lambda path, plot=plot: painter.paint(report, plot, [path]))  # type: ignore[misc]
        painted[plot.title] = (own / f"{plot.name}.png").read_bytes()
    return painted
