"""How quick nodes are, from what was observed of them: neither luck nor the past counts as speed."""

from __future__ import annotations

import random

import pytest

from sage.scheduling import Speeds


def test_what_is_beyond_doubt_is_known() -> None:
    speeds = Speeds()
    for _ in range(20):
        for node, speed in (("slow", 0.5), ("quick", 1.5)):
            speeds.observe(node, 1.0, 1.0 / speed)
    assert speeds.of("slow") == pytest.approx(0.5, rel=0.05)
    assert speeds.of("quick") == pytest.approx(1.5, rel=0.05)
    assert speeds.of("new") == 1.0


def test_one_measurement_of_a_node_says_little_where_records_differ() -> None:
    chance, speeds = random.Random(1), Speeds()
    for _ in range(40):
        for node in ("a", "b"):
            speeds.observe(node, 1.0, chance.lognormvariate(0, 0.6))
    speeds.observe("once", 1.0, 2.5)
    assert speeds.of("once") >= 0.95


def test_what_was_slow_once_is_given_another_chance() -> None:
    speeds = Speeds()
    for _ in range(20):
        for node, took_s in (("crowded", 4.0), ("b", 1.0), ("c", 1.0)):
            speeds.observe(node, 1.0, took_s)
    assert speeds.of("crowded") < 0.5
    for _ in range(200):
        speeds.observe("b", 1.0, 1.0)
        speeds.observe("c", 1.0, 1.0)
    assert speeds.of("crowded") == 1.0
    speeds.observe("crowded", 1.0, 1.0)
    assert speeds.of("crowded") == pytest.approx(1.0, rel=0.05)
