"""Counters, gauges and histograms that are cheap enough for the hot path, and their Prometheus text.

Every object has one writer: a task makes its own and nobody else writes to it, so there is no lock. Readers on other
threads may look at any time; what they see is at most one batch old. A `Registry` hands the objects out and adds up, at
read, those that have the same name and labels.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

SMALLEST_S = 1e-6
LARGEST_S = 1e4
_DECADES = 10
_BUCKETS_PER_DECADE = 24
_PER_E = _BUCKETS_PER_DECADE / math.log(10)
_UPPER_S = tuple(SMALLEST_S * 10 ** (i / _BUCKETS_PER_DECADE) for i in range(_DECADES * _BUCKETS_PER_DECADE + 1))
"""Upper bounds: bucket 0 holds what is shorter than `SMALLEST_S`; the bucket after the last bound holds the rest."""
_SHOWN_EVERY = 8  # Prometheus gets three buckets a decade


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount


class Gauge:
    """A number that goes up and down. Gauges of the same name and labels are added up at read."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        self.value = value

    def add(self, amount: float = 1) -> None:
        self.value += amount


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """What a `Histogram` held at one moment."""

    counts: tuple[int, ...]
    sum_s: float
    min_s: float
    """Infinity while nothing was recorded."""
    max_s: float
    """0 while nothing was recorded."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The value of rank ``ceil(q * count)`` (q from 0 to 1) within 5%, or None while nothing was recorded."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1: got {q!r}")
        running = list(accumulate(self.counts))
        if not running[-1]:
            return None
        bucket = bisect_left(running, max(1, math.ceil(q * running[-1])))
        if bucket == 0:
            middle = self.min_s
        elif bucket == len(_UPPER_S):
            middle = self.max_s
        else:
            middle = math.sqrt(_UPPER_S[bucket - 1] * _UPPER_S[bucket])
        return min(max(middle, self.min_s), self.max_s)


class Histogram:
    """Durations in seconds, in 240 log-spaced buckets from a microsecond to 10,000 seconds (and one beyond each end).

    Every quantile in that range is within 5% of the exact one. What is negative or not a number raises `ValueError`.
    """

    __slots__ = ("_counts", "_max_s", "_min_s", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(_UPPER_S) + 1)
        self._sum_s = 0.0
        self._min_s = math.inf
        self._max_s = 0.0

    def record(self, value_s: float, count: int = 1) -> None:
        """Record `value_s`, `count` times over (one batch whose records all took this long)."""
        if count < 1:
            raise ValueError(f"cannot record a value {count} times")
        self._counts[_bucket_of(value_s)] += count
        self._sum_s += value_s * count
        self._min_s = min(self._min_s, value_s)
        self._max_s = max(self._max_s, value_s)

    def merge(self, other: Histogram | HistogramSnapshot) -> None:
        """Add what `other` holds; `other` stays as it is."""
        snapshot = other.snapshot() if isinstance(other, Histogram) else other
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, snapshot.counts, strict=True)]
        self._sum_s += snapshot.sum_s
        self._min_s = min(self._min_s, snapshot.min_s)
        self._max_s = max(self._max_s, snapshot.max_s)

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(tuple(self._counts), self._sum_s, self._min_s, self._max_s)

    def quantile(self, q: float) -> float | None:
        """See `HistogramSnapshot.quantile`; take one snapshot where several quantiles are wanted."""
        return self.snapshot().quantile(q)


def _bucket_of(value_s: float) -> int:
    if SMALLEST_S <= value_s < LARGEST_S:
        return int(math.log(value_s / SMALLEST_S) * _PER_E) + 1
    if value_s >= LARGEST_S:
        return len(_UPPER_S)
    if value_s >= 0:
        return 0
    raise ValueError(f"a duration is a number of seconds, 0 or more: got {value_s!r}")


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """All figures of one name at one moment, by labels."""

    name: str
    help: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    samples: dict[Labels, float | HistogramSnapshot]


_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Registry:
    """The metrics of one job or server. Making one takes a lock, writing to it does not.

    Each call makes a new object for the caller alone. What an ended task has counted stays counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._families: dict[str, tuple[str, type[Any], dict[Labels, list[Any]]]] = {}

    def counter(self, name: str, help_: str, **labels: str) -> Counter:
        """`name` ends in ``_total`` by Prometheus' custom."""
        return self._add(Counter(), name, help_, labels)

    def gauge(self, name: str, help_: str, **labels: str) -> Gauge:
        return self._add(Gauge(), name, help_, labels)

    def histogram(self, name: str, help_: str, **labels: str) -> Histogram:
        """`name` ends in ``_seconds`` by Prometheus' custom."""
        return self._add(Histogram(), name, help_, labels)

    def _add(self, metric: _Metric, name: str, help_: str, labels: dict[str, str]) -> _Metric:
        for word in (name, *labels):
            if not (word.isascii() and word.isidentifier()):
                raise ValueError(f"not a metric or label name: {word!r}")
        with self._lock:
            _, cls, by_labels = self._families.setdefault(name, (help_, type(metric), {}))
            if cls is not type(metric):
                raise ValueError(f"{name} is a {cls.__name__.lower()} already")
            by_labels.setdefault(tuple(sorted(labels.items())), []).append(metric)
        return metric

    def collect(self) -> list[Family]:
        """A frozen copy of every figure, objects of equal name and labels added up."""
        with self._lock:
            return [
                Family(name, help_, cls.__name__.lower(), {labels: _total(of) for labels, of in by_labels.items()})
                for name, (help_, cls, by_labels) in self._families.items()
            ]


def _total(metrics: list[Any]) -> float | HistogramSnapshot:
    if not isinstance(metrics[0], Histogram):
        total: float = sum(metric.value for metric in metrics)
        return total
    merged = Histogram()
    for metric in metrics:
        merged.merge(metric)
    return merged.snapshot()


def prometheus_text(families: Iterable[Family]) -> str:
    """The families in Prometheus' text format 0.0.4 (``text/plain; version=0.0.4``)."""
    lines = []
    for family in families:
        lines += [f"# HELP {family.name} {_one_line(family.help)}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples.items():
            if isinstance(value, HistogramSnapshot):
                lines += _histogram_lines(family.name, labels, value)
            else:
                lines.append(f"{family.name}{_braces(labels)} {_number(value)}")
    return "".join(line + "\n" for line in lines)


def _histogram_lines(name: str, labels: Labels, value: HistogramSnapshot) -> Iterable[str]:
    running = list(accumulate(value.counts))
    for bound in range(0, len(_UPPER_S), _SHOWN_EVERY):
        yield f"{name}_bucket{_braces((*labels, ('le', f'{_UPPER_S[bound]:.4g}')))} {running[bound]}"
    yield f"{name}_bucket{_braces((*labels, ('le', '+Inf')))} {running[-1]}"
    yield f"{name}_sum{_braces(labels)} {_number(value.sum_s)}"
    yield f"{name}_count{_braces(labels)} {running[-1]}"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_quotable(value)}"' for key, value in labels) + "}"


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quotable(text: str) -> str:
    return _one_line(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
