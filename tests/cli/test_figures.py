"""Numbers and tables as text: they fit."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sage.cli.figures import clock, columns_as_text, count, endpoint_line, seconds
from sage.flow.admission import EndpointFigures


@given(st.one_of(st.integers(0, 10**15), st.floats(0, 1e15)))
def test_a_count_has_seven_characters_at_most_and_is_right(number: float) -> None:
    text = count(number)
    assert len(text) <= 7
    digits, unit = re.fullmatch(r"([\d.,]+)([kMGT]?)", text).groups()  # type: ignore[union-attr]
    value = float(digits.replace(",", "")) * 1000 ** " kMGT".index(unit or " ")
    assert abs(value - number) <= max(0.5001, 0.0006 * number)


@given(st.floats(0, 1e6))
def test_a_time_is_short_and_has_a_unit(value_s: float) -> None:
    text = seconds(value_s)
    assert re.fullmatch(r"[\d.,]+ (us|ms|s)", text)
    assert len(text) <= 11


def test_some_figures() -> None:
    assert [count(n) for n in (0, 0.5, 12_345, 123_456, 12_345_678)] == ["0", "0.5", "12,345", "123.5k", "12.35M"]
    assert [seconds(s) for s in (None, 0.000_002, 0.05, 1.5, 250)] == ["-", "2 us", "50 ms", "1.5 s", "250 s"]
    assert [clock(s) for s in (0, 61, 3661)] == ["00:00", "01:01", "1:01:01"]


@given(st.integers(62, 200), st.lists(st.text("abc", min_size=1, max_size=64), min_size=1, max_size=4))
def test_a_table_fits_and_is_aligned(width: int, names: list[str]) -> None:
    titles = ("records", "rate/s", "p50", "p99", "retries", "dead")
    columns = {title: ["123.4k"] * len(names) for title in titles}
    lines = columns_as_text("  step", names, columns, width)
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= width
    assert all(title in lines[0] for title in ("records", "p99", "dead"))


def test_an_endpoint_on_a_line() -> None:
    busy = EndpointFigures("http://a/v1", 18, 17, 8, 1234.5, 0, 0.0, "")
    assert endpoint_line(busy) == "http://a/v1  17 of 18 in flight, 8 waiting, 1,234 tokens/s"
    parked = EndpointFigures("http://a/v1", 18, 0, 8, 0.0, 3, 30.0, "E720 too many requests")
    assert endpoint_line(parked).endswith("asked to wait 3 times, left alone for 30 s")
    tried = EndpointFigures("http://a/v1", 18, 1, 8, 0.0, 0, None, "E722 away")
    assert endpoint_line(tried).endswith("being tried")
