"""From the rows of a run to its figures."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from math import isclose

from sage.bench.case import Case
from sage.bench.executor import Run
from sage.bench.statistics import percentile
from sage.errors import InternalError
from sage.simulation import Rows, balance_of

WARM_UP = 0.1
"""The share of a run's time that is left out: queues fill, limits and speeds are found. Of its time and not of its
records, so that records which come home in one heap cannot look quick."""


def figures_of(case: Case, run: Run) -> dict[str, float]:
    """Throughput in records a second, latencies and their parts in seconds, balance.

    Raises `InternalError` E902 if a record was lost, ended twice, or has parts that do not add up to its latency.
    """
    rows = run.rows
    check_rows(case, rows)
    began_s, ended_s = min(rows.intended_s), rows.ended_s[-1]
    warm_s = began_s + WARM_UP * (ended_s - began_s)
    first = bisect_right(rows.ended_s, warm_s)
    latencies = [rows.ended_s[row] - rows.intended_s[row] for row in range(first, len(rows))]
    ordered = sorted(latencies)
    count = len(ordered)
    given = Counter(rows.node)
    figures = {
        "throughput_per_s": count / (ended_s - warm_s),
        "total_s": ended_s - began_s,
        "mean_s": sum(ordered) / count,
        "p50_s": percentile(ordered, 0.5),
        "p95_s": percentile(ordered, 0.95),
        "p99_s": percentile(ordered, 0.99),
        "scheduling_s": sum(rows.scheduling_s[first:]) / count,
        "queueing_s": sum(rows.queueing_s[first:]) / count,
        "execution_s": sum(rows.execution_s[first:]) / count,
        "balance": balance_of(tuple(given.get(node, 0) for node in range(case.nodes))),
    }
    return {**figures, **run.figures, **_by_job(case, rows)}


def _by_job(case: Case, rows: Rows) -> dict[str, float]:
    if len(case.loads) < 2:
        return {}
    figures: dict[str, float] = {}
    for number, load in enumerate(case.loads):
        own = [row for row, index in enumerate(rows.job_index) if index == number]
        began_s = min(rows.intended_s[row] for row in own)
        took_s = rows.ended_s[own[-1]] - began_s
        latencies = sorted(rows.ended_s[row] - rows.intended_s[row] for row in own)
        figures[f"{load.name}: throughput_per_s"] = len(own) / took_s
        figures[f"{load.name}: p99_s"] = percentile(latencies, 0.99)
        figures[f"{load.name}: total_s"] = took_s
    rates = [figures[f"{load.name}: throughput_per_s"] for load in case.loads]
    figures["difference"] = 1 - min(rates) / max(rates)
    return figures


def check_rows(case: Case, rows: Rows) -> None:
    """Raise E902 unless every record of `case` is there once, with parts that add up to its latency."""
    expected = {(job, index) for job, load in enumerate(case.loads) for index in range(load.tasks)}
    found = Counter(zip(rows.job_index, rows.index, strict=True))
    if found.keys() != expected or len(rows) != len(expected):
        raise _lost(case, f"{len(rows)} rows, {len(found)} records", f"{len(expected)} records, each once")
    columns: Iterable[tuple[float, ...]] = zip(
        rows.ended_s, rows.intended_s, rows.scheduling_s, rows.queueing_s, rows.execution_s, strict=True
    )
    for end_s, start_s, *parts in columns:
        if not isclose(sum(parts), end_s - start_s, rel_tol=0.01, abs_tol=1e-6):
            raise _lost(case, f"{sum(parts):g} s in parts", f"a latency of {end_s - start_s:g} s")


def _lost(case: Case, got: str, expected: str) -> InternalError:
    return InternalError(
        "E902",
        "records were lost, so no figure of this run is shown",
        at=f"case {case.name}",
        got=got,
        expected=expected,
    )
