"""What calls came to, from the counts that each process of each run leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sage import codec
from sage.runtime.durable import StepBill

Counts = dict[str, Counter[str]]
"""By step."""


def by_run(rows: Iterable[tuple[bytes, bytes]]) -> dict[int, Counts]:
    """By the epoch of the run: the counts of all its processes together."""
    runs: dict[int, Counts] = {}
    for key, value in rows:
        add(runs.setdefault(int(key.split(b"-")[0]), {}), codec.decode(value))
    return runs


def add(total: Counts, counts: Mapping[str, Mapping[str, int]]) -> None:
    for step, some in counts.items():
        total.setdefault(step, Counter()).update(some)


def wasted(counts: Mapping[str, int]) -> int:
    """Of one run and step."""
    return max(counts.get("lost", 0), counts.get("made", 0) - counts.get("kept", 0))


def bill_of_run(counts: Counts) -> tuple[StepBill, ...]:
    """What its calls came to."""
    return tuple(_bill(step, some) for step, some in sorted(counts.items()))


def _bill(step: str, some: Counter[str]) -> StepBill:
    return StepBill(
        step, some["kept"], some["reused"], some["adopted"], wasted(some),
        some["kept_tokens"], some["reused_tokens"], some["adopted_tokens"],
    )  # fmt: skip
