"""What becomes of the result of an async call: records to emit, or none."""

from __future__ import annotations

from typing import Any

from sage.flow.step import Kind
from sage.record import Batch
from sage.runtime.calls import drop, returned_none
from sage.runtime.failures import LOST
from sage.runtime.flattening import expanded, is_many, not_many, one_or_many
from sage.runtime.stage import Stage


def emitted(stage: Stage, batch: Batch, result: Any) -> list[Batch]:
    """What `stage` emits for `batch`, given what its operator answered."""
    if stage.plan.kind is Kind.FILTER:
        return _filtered(stage, batch, result)
    if stage.plan.kind is Kind.FLAT_MAP:
        return _flattened(stage, batch, result)
    return _mapped(stage, batch, result if stage.plan.batch_size else [result])


def _mapped(stage: Stage, batch: Batch, results: list[Any]) -> list[Batch]:
    mask = [True] * len(results)
    for index, result in enumerate(results):
        if result is None:
            results[index] = stage.failures.give_up(batch, index, returned_none(stage.plan.name))
            mask[index] = results[index] is not LOST
    return [batch.with_records(results) if all(mask) else batch.with_records(results).select(mask)]


def _filtered(stage: Stage, batch: Batch, keep: object) -> list[Batch]:
    if not keep:
        drop(stage, batch, [False], 1)
    return [batch] if keep else []


def _flattened(stage: Stage, batch: Batch, result: Any) -> list[Batch]:
    if not is_many(result):
        result = one_or_many(stage.failures.give_up(batch, 0, not_many(stage.plan.name, result)))
        if result is LOST:
            return []
    return [expanded(stage, batch, [list(result)])]
