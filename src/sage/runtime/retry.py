"""When to try again: pure decisions. One retry layer for all steps; nothing below it retries.

Full jitter: Marc Brooker, "Exponential Backoff and Jitter" (AWS, 2015). Retry budget: Finagle's `RetryBudget`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from sage.errors import EndpointBusy, EndpointError, SageError, StepTimeout

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 30.0
LONGEST_PARK_S = 300.0
"""An endpoint that asks for a longer wait is asked again after this time."""


class RetryBudget:
    """Retries may be `ratio` of the calls, plus `floor_per_s`: a failing endpoint is not flooded with repeats.

    A retry beyond the budget waits; it is not given up. Not thread-safe: races only make it a little generous.
    """

    def __init__(self, ratio: float = 0.1, floor_per_s: float = 10.0, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._floor_per_s = floor_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s: float | None = None

    def called(self, calls: int = 1) -> None:
        """First attempts were made."""
        self._tokens = min(self._tokens + calls * self._ratio, max(self._burst, calls * self._ratio))

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next retry may go; taking it is certain, so ask only if you will retry."""
        if self._at_s is not None:
            self._tokens = min(self._tokens + (now_s - self._at_s) * self._floor_per_s, self._burst)
        self._at_s = now_s
        self._tokens -= 1
        return 0.0 if self._tokens >= 0 else -self._tokens / self._floor_per_s


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `wait_s` seconds. A parked record waits for its endpoint and has burned no attempt."""

    wait_s: float
    parked: bool


class RetryPolicy:
    """What a step does after an attempt that raised."""

    def __init__(
        self, retries: int, budget: RetryBudget, jitter: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._retries = retries
        self._budget = budget
        self._jitter = jitter

    def called(self, calls: int = 1) -> None:
        """First attempts were made (it feeds the budget)."""
        if self._retries:
            self._budget.called(calls)

    def after(self, error: Exception, attempts: int, parks: int, now_s: float) -> Again | None:
        """`attempts` were made (1 or more) and the record parked `parks` times; None: give up."""
        if isinstance(error, EndpointBusy):
            if error.retry_after_s is not None:
                wait_s = min(max(0.0, error.retry_after_s), LONGEST_PARK_S)
                return Again(wait_s + self._jitter(0.0, FIRST_BACKOFF_S), parked=True)
            return Again(self._backoff_s(parks), parked=True)
        if attempts > self._retries or not _may_pass(error):
            return None
        return Again(self._backoff_s(attempts - 1) + self._budget.wait_s(now_s), parked=False)

    def _backoff_s(self, times: int) -> float:
        return self._jitter(0.0, min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(times, 20)))


def _may_pass(error: Exception) -> bool:
    """A later attempt could end otherwise. SAGE's own errors say; of others we do not know, so they may."""
    if isinstance(error, SageError):
        return isinstance(error, EndpointError | StepTimeout) and not error.fatal
    return True
