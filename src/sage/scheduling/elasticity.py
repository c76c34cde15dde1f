"""What one more request in flight brings, in throughput: ``e = d ln X / d ln N``. Pure: no clock, no I/O.

What a round has to read in prompts disturbs X more than a small change of N does, so prompt tokens per output token (z)
are a second explanation: ``d ln X = e * d ln N + a * d z``, least squares over the differences between successive
rounds. A difference counts less the older it is, and the further from the present n it was taken: e is a property of a
place. Mixed sizes of requests do therefore not look like congestion.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FORGET, NEAR, REMEMBERED = 0.85, 0.3, 20
LEAST_CHANGE = 0.01
"""Of ln N; less of it explains nothing."""
SURPRISE = 0.5
"""A change of ln X by more than requests in flight explain, and by so much, is another endpoint."""
DOUBT, DOUBT_PROMPTS = 0.004, 0.01
"""Ridges of the least squares: e is what is expected and a is 0 until something was seen."""
CROWD = 0.3
"""The most that one prompt token per output token can take from ln X: prompts are cheaper by the token."""

LEAP, STEEP, FLAT = 0.3, 0.7, 0.35
"""Of ln N; and e before such a leap and on average within it, between which no curve without a corner falls so soon."""


class Point(NamedTuple):
    """What one round measured."""

    log_in_flight: float
    log_throughput: float
    prompts: float
    """Prompt tokens per output token."""


class Change(NamedTuple):
    """From one round to the next, and where that was."""

    at: float
    in_flight: float
    throughput: float
    prompts: float
    weight: float


def fall(last: Point, point: Point) -> float:
    """Of ln X, by more than fewer requests in flight and longer prompts explain."""
    explained = max(0.0, last.log_in_flight - point.log_in_flight) + CROWD * max(0.0, point.prompts - last.prompts)
    return last.log_throughput - point.log_throughput - explained


def knee(before: float, last: Point, point: Point) -> float | None:
    """ln N at which the throughput stopped growing, where that was within one leap: up to there each request brought as
    much as those before it, where e was `before`."""
    leap = point.log_in_flight - last.log_in_flight
    more = max(0.0, point.log_throughput - last.log_throughput)
    return last.log_in_flight + more if before > STEEP and leap > LEAP and more < FLAT * leap else None


class Elasticity:
    """Of one endpoint; `expected` until something was seen."""

    def __init__(self, expected: float) -> None:
        self._expected = expected
        self._changes: list[Change] = []

    def forget(self) -> None:
        self._changes = []

    def learn(self, last: Point, point: Point) -> bool:
        """From two rounds in succession. False: that was a surprise, and all is forgotten."""
        change = point.log_in_flight - last.log_in_flight
        if abs(change) < LEAST_CHANGE:
            return True
        more = point.log_throughput - last.log_throughput
        if abs(more) > SURPRISE + abs(change):
            self.forget()
            return False
        older = [old._replace(weight=old.weight * FORGET) for old in self._changes[1 - REMEMBERED :]]
        middle = (point.log_in_flight + last.log_in_flight) / 2
        self._changes = [*older, Change(middle, change, more, point.prompts - last.prompts, 1.0)]
        return True

    def near(self, log_in_flight: float) -> float:
        """Weighted least squares of the changes of throughput, explained by requests in flight and prompts."""
        nn, nx, zz, nz, zx = DOUBT, DOUBT * self._expected, DOUBT_PROMPTS, 0.0, 0.0
        for at, n, x, z, weight in self._changes:
            near = weight * math.exp(-(((at - log_in_flight) / NEAR) ** 2))
            nn += near * n * n
            nx += near * n * x
            zz += near * z * z
            nz += near * n * z
            zx += near * z * x
        crowding = max(-CROWD, min(0.0, (zx * nn - nx * nz) / (zz * nn - nz * nz)))
        return max(-1.0, min(1.0, (nx - crowding * nz) / nn))
