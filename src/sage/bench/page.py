"""report.html: everything of one run on a page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sage.bench.suite import Report
from sage.bench.texts import cell, heading, notes, shown, title

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; font-size: 0.8rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.5rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots img { width: 29rem; max-width: 100%; }
.small { color: #555; font-size: 0.85rem; }
pre { font-size: 0.75rem; overflow-x: auto; background: #f7f7f7; padding: 1rem; }
.mark { background: #fff3cd; padding: 0 0.3rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; } table { font-size: 6.5pt; } th, td { padding: 0.1rem 0.2rem; }
  .scroll { overflow: visible; } tr, img { break-inside: avoid; } .plots img { width: 48%; }
  .mark { border: 1px solid #222; } pre { white-space: pre-wrap; }
}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One experiment on the page."""

    report: Report
    pictures: Mapping[str, bytes]
    """PNG by title."""
    compared: str


def page(sections: Sequence[Section]) -> str:
    """HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SAGE experiments</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>SAGE experiments</h1>{''.join(map(_html, sections))}</body></html>\n"
    )


def _html(section: Section) -> str:
    report = section.report
    machine = heading(report)[1]
    read = escape(" ".join(notes(report))).replace("+-", "&plusmn;")
    images = "".join(
        f'<img alt="{escape(about)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        for about, picture in section.pictures.items()
    )
    return (
        f'<h2>{escape(report.experiment.title)} <span class="mark">{escape(report.label)}</span></h2>'
        f'<p class="small">{escape(machine)}</p><p>{escape(report.experiment.table)}</p>'
        f'<div class="scroll">{_table(report)}</div><p class="small">{read}</p>'
        f'<div class="plots">{images}</div>'
        f"<details><summary>Comparison</summary><pre>{escape(section.compared)}</pre></details>"
    )


def _table(report: Report) -> str:
    columns = shown(report)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("case", *(column.title for column in columns)))
    rows = []
    for case in report.cases:
        found = report.figures[case.name]
        figures = [cell(found.get(each.figure), each, spread=" &plusmn;&nbsp;", nothing="&ndash;") for each in columns]
        cells = [escape(title(case)), *figures]
        rows.append("<tr>" + "".join(f"<td>{each}</td>" for each in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
