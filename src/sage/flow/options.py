"""Which options each kind of step has, and which values they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sage.flow.callables import default_options
from sage.flow.step import ADAPTIVE, Kind, Step

MAX_SECONDS = 1_000_000_000

_CALLS = frozenset({"concurrency", "parallelism", "durable", "retries", "timeout_s", "on_error", "resources"})
ALLOWED: Mapping[Kind, frozenset[str]] = {
    Kind.READ: frozenset(),
    Kind.MAP: _CALLS | {"batch_size"},
    Kind.FLAT_MAP: _CALLS,
    Kind.FILTER: _CALLS,
    Kind.KEY_BY: frozenset({"on_error"}),
    Kind.ORDER_BY: frozenset({"on_error"}),
    Kind.REDUCE: frozenset({"parallelism"}),
    Kind.ROUTE: frozenset(),
    Kind.UNION: frozenset(),
    Kind.WRITE: frozenset({"retries"}),
    Kind.COLLECT: frozenset(),
}
"""The options of each kind of step, beside `name`."""
CALLS = (Kind.MAP, Kind.FLAT_MAP, Kind.FILTER)
"""The kinds whose operators may be async, and may bring options along."""


def options_of(step: Step) -> dict[str, Any]:
    """What was asked of the step; where nothing was, what its operator brings along."""
    brought = default_options(step.operator) if step.kind in CALLS else {}
    return {**brought, **step.options}


def complaint_about(option: str, value: Any) -> str | None:
    """What `value` should be, if it cannot be the value of `option`."""
    return _COMPLAINTS[option](value)


def _count(value: Any) -> str | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000
    return None if ok else "a whole number from 1 to 1,000,000"


def _count_or_adaptive(value: Any) -> str | None:
    if isinstance(value, str) and value == ADAPTIVE:
        return None
    complaint = _count(value)
    return complaint and f"{complaint}, or {ADAPTIVE!r}"


def _retries(value: Any) -> str | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000
    return None if ok else "a whole number from 0 to 1,000"


def _seconds(value: Any) -> str | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS
    return None if ok else f"seconds, a number above 0 and at most {MAX_SECONDS:,}"


def _on_error(value: Any) -> str | None:
    ok = value in ("dead_letter", "fail") if isinstance(value, str) else callable(value)
    return None if ok else "'dead_letter', 'fail', or a function of (record, error)"


def _amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _resources(value: Any) -> str | None:
    ok = isinstance(value, Mapping) and all(isinstance(k, str) and _amount(v) for k, v in value.items())
    return None if ok else "a mapping of resource names to numbers above 0"


_COMPLAINTS: Mapping[str, Callable[[Any], str | None]] = {
    "batch_size": _count,
    "concurrency": _count_or_adaptive,
    "parallelism": _count_or_adaptive,
    "durable": lambda value: None if isinstance(value, bool) else "True or False",
    "retries": _retries,
    "timeout_s": _seconds,
    "on_error": _on_error,
    "resources": _resources,
}
