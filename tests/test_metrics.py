"""Counters, histograms and their Prometheus text."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.metrics import Histogram, HistogramSnapshot, Registry, prometheus_text

durations_s = st.floats(min_value=1e-6, max_value=9_999.0)


def exact(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.lists(durations_s, min_size=1, max_size=200), st.floats(min_value=0, max_value=1))
def test_a_quantile_is_within_five_percent_of_the_exact_one(values: list[float], q: float) -> None:
    assert filled(values).quantile(q) == pytest.approx(exact(values, q), rel=0.05)


@given(st.lists(st.floats(min_value=0, max_value=1e9), max_size=100))
def test_recording_one_by_one_and_many_at_once_give_the_same(values: list[float]) -> None:
    one_by_one = Histogram()
    for value in values:
        one_by_one.record(value)
    ours, theirs = one_by_one.snapshot(), filled(values).snapshot()
    assert (ours.counts, ours.min_s, ours.max_s) == (theirs.counts, theirs.min_s, theirs.max_s)
    assert ours.sum_s == pytest.approx(theirs.sum_s)
    assert ours.count == len(values)


@given(st.lists(durations_s, max_size=50), st.lists(durations_s, max_size=50))
def test_merging_two_is_recording_into_one(left: list[float], right: list[float]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    both = filled(left + right).snapshot()
    assert merged.snapshot().counts == both.counts
    assert [merged.quantile(q) for q in (0, 0.5, 1)] == [both.quantile(q) for q in (0, 0.5, 1)]


def test_a_count_weighs_a_value() -> None:
    histogram = Histogram()
    histogram.record(0.001, count=99)
    histogram.record(5.0)
    assert histogram.quantile(0.99) == pytest.approx(0.001, rel=0.05)
    assert histogram.quantile(1) == pytest.approx(5.0, rel=0.05)
    assert histogram.snapshot().sum_s == pytest.approx(5.099)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def test_what_is_beyond_either_end_is_kept_as_the_extremes() -> None:
    histogram = filled([0.0, 1e-9, 1e6])
    assert histogram.quantile(0) == 0.0
    assert histogram.quantile(1) == 1e6


@pytest.mark.parametrize("value", [-1.0, math.nan, -math.inf])
def test_what_is_not_a_duration_is_refused_and_leaves_no_trace(value: float) -> None:
    histogram = Histogram()
    with pytest.raises(ValueError, match="duration"):
        histogram.record(value)
    assert histogram.snapshot().count == 0


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_lies_between_0_and_1(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        filled([1.0]).quantile(q)


def test_a_snapshot_does_not_follow_its_histogram() -> None:
    histogram = filled([1.0])
    snapshot = histogram.snapshot()
    histogram.record(2.0)
    assert snapshot.count == 1


def test_objects_of_one_name_and_labels_are_added_up_at_read() -> None:
    registry = Registry()
    registry.counter("records_total", "Records.", step="map").add(2)
    registry.counter("records_total", "Records.", step="map").add(3)
    registry.counter("records_total", "Records.", step="write").add(7)
    registry.histogram("wait_seconds", "Wait.", step="map").record(1.0)
    registry.histogram("wait_seconds", "Wait.", step="map").record(3.0)
    counters, waits = registry.collect()
    assert counters.samples == {(("step", "map"),): 5, (("step", "write"),): 7}
    wait = waits.samples[(("step", "map"),)]
    assert isinstance(wait, HistogramSnapshot)
    assert (wait.count, wait.sum_s) == (2, 4.0)


def test_writers_of_their_own_objects_lose_nothing() -> None:
    registry = Registry()

    def work() -> None:
        counter = registry.counter("done_total", "Done.")
        for _ in range(10_000):
            counter.add()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.collect()[0].samples == {(): 40_000}


def test_a_name_has_one_kind() -> None:
    registry = Registry()
    registry.counter("x_total", "X.")
    with pytest.raises(ValueError, match="x_total is a counter already"):
        registry.gauge("x_total", "X.")


@pytest.mark.parametrize("name", ["", "1st", "a b", "a-b", "höhe"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a metric or label name"):
        Registry().counter(name, "X.")
    with pytest.raises(ValueError, match="not a metric or label name"):
        Registry().counter("x", "X.", **{name: "y"})


def test_prometheus_text_of_numbers() -> None:
    registry = Registry()
    registry.counter("records_total", 'Records\nof "all" \\ kinds.', step='a"b\\c\nd').add(5)
    gauge = registry.gauge("load", "Load.")
    gauge.set(math.inf)
    assert prometheus_text(registry.collect()) == (
        '# HELP records_total Records\\nof "all" \\\\ kinds.\n'
        "# TYPE records_total counter\n"
        'records_total{step="a\\"b\\\\c\\nd"} 5\n'
        "# HELP load Load.\n"
        "# TYPE load gauge\n"
        "load +Inf\n"
    )


def test_prometheus_text_of_a_histogram_is_cumulative() -> None:
    registry = Registry()
    histogram = registry.histogram("wait_seconds", "Wait.", step="map")
    for value in (0.0, 0.002, 0.5, 0.5, 1e5):
        histogram.record(value)
    lines = prometheus_text(registry.collect()).splitlines()
    buckets = {line.split('le="')[1].split('"')[0]: int(line.split()[-1]) for line in lines if "_bucket" in line}
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["1e-06"], buckets["1"], buckets["1e+04"], buckets["+Inf"]) == (1, 4, 4, 5)
    assert 'wait_seconds_count{step="map"} 5' in lines
    assert 'wait_seconds_sum{step="map"} 100001.002' in lines
