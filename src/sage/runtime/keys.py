"""Keys, and reductions over the records of a key."""

from __future__ import annotations

import hashlib
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from time import perf_counter
from typing import Any

from sage.errors import RecordError, shorten
from sage.flow.graph import StepPlan
from sage.flow.step import Kind, Reduction
from sage.record import Batch, Given, Lineage, Origin
from sage.runtime.calls import CallStage, without
from sage.runtime.context import RuntimeContext
from sage.runtime.durable import Taken
from sage.runtime.routing import stable_hash
from sage.runtime.stage import SharedOperator, Stage
from sage.runtime.stock import Stock

MAX_KEY_CHARS = 400
IMMUTABLE = (int, float, complex, bool, str, bytes, tuple, frozenset)
"""One initial value of such a type does for all keys of an aggregation."""


class KeyStage(CallStage):
    """Gives each record a key, for `key_by` and `order_by`."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, shared: SharedOperator) -> None:
        super().__init__(plan, context, shared)
        if isinstance(plan.operator, str):
            self.call = operator.itemgetter(plan.operator)

    def process(self, batch: Batch) -> Batch:
        if self.plan.operator is None:
            return Batch(batch.records, batch.lineage, batch.records)
        keys, batch = self.call_each(batch)
        return self.complete(keys, batch)

    def complete(self, keys: list[Any], batch: Batch) -> Batch:
        if self.plan.kind is Kind.ORDER_BY:  # a reduction finds out by itself, at no cost
            bad = [index for index, key in enumerate(keys) if not is_hashable(key)]
            if bad:
                keys, batch = self.refuse(keys, batch, bad, lambda key: unhashable(self.plan.name, key))
        return Batch(batch.records, batch.lineage, keys)


def is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


_ABSENT: Any = object()


class ReduceStage(Stage):
    """One ``(key, value)`` per key, emitted when the input has ended."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, instance: int = 0) -> None:
        super().__init__(plan, context)
        self._instance = instance
        self._stock: Stock | None = None
        self._changed: set[Any] = set()
        """Keys, since the last checkpoint of a run with a job directory."""
        reduction: Reduction = plan.operator
        self._add = reduction.add
        self._initial = reduction.initial
        self.values: Counter[Any] | dict[Any, Any] = Counter() if reduction.add is None else {}

    def open(self) -> None:
        durability = self.context.durability
        if durability is not None:
            self._stock = Stock(durability, self, self._instance)
            held = durability.held(self.plan.name, self._instance)
            if held is not None:
                self.values = held
                return
            for key, value in durability.state(self.plan.name):
                if stable_hash(key) % self.plan.parallelism == self._instance:
                    self.values[key] = value

    def push(self, batch: Batch) -> None:
        self.stats.received += len(batch)
        if self._stock is None:
            self._settle(self._merge(batch))
            return
        with self._stock.taking():
            new, known = self._stock.split(batch)
            if known is not None:
                self._settle(known)
            if new.records:
                merged = self._merge(new)
                self._changed.update(merged.keys or ())
                self._stock.add(merged.lineage)
                self._settle(merged)

    def take_stock(self) -> Taken | None:
        assert self._stock is not None
        with self._stock.taken() as lineage:
            changed, self._changed = self._changed, set()
            state = [(key, deepcopy(self.values[key])) for key in changed]
        return Taken(None, state, (), lineage) if lineage else None

    def holding(self) -> Counter[Any] | dict[Any, Any]:
        return self.values

    def _merge(self, batch: Batch) -> Batch:
        """Take `batch` up; the part of it that could be."""
        count = len(batch)
        started = perf_counter()
        failed = self._take_up(batch)
        took = perf_counter() - started
        self.stats.busy_s += took
        self.stats.calls.record(took / count, count)
        return batch.select(without(failed, count)) if failed else batch

    def _settle(self, merged: Batch) -> None:
        self.stats.merged += len(merged)
        self.context.ledger.settle_all(merged.lineage)

    def fold_lines(self, names: dict[str, Any]) -> list[str]:
        """Source that takes up `value` under `key`, for a generated loop, and the names it needs; [] if there is a
        quicker way, which takes whole batches."""
        if self._add is None:
            return []
        names |= {"values": self.values, "get": self.values.get, "ABSENT": _ABSENT, "add": self._add}
        names["initial"] = self._initial
        start = "value if old is ABSENT else add(old, value)"
        if self._initial is not None:
            if any(self._initial is kind for kind in IMMUTABLE):
                names["initial"] = self._initial()
                return ["values[key] = add(get(key, initial), value)"]
            start = "add(initial() if old is ABSENT else old, value)"
        return ["old = get(key, ABSENT)", f"values[key] = {start}"]

    def _take_up(self, batch: Batch) -> list[int]:
        """Reduce the batch; the indexes of the records that failed."""
        keys = batch.keys or []
        failed: list[int] = []
        waiting = iter(keys)
        pairs = zip(waiting, batch.records, strict=False)
        while True:
            try:
                if isinstance(self.values, Counter):
                    self.values.update(waiting)
                else:
                    self._fold(pairs)
            except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                index = len(keys) - operator.length_hint(waiting) - 1
                self.refuse(batch, index, keys[index], error)
                failed.append(index)
            else:
                return failed

    def _fold(self, pairs: Iterator[tuple[Any, Any]]) -> None:
        values, add, initial = self.values, self._add, self._initial
        assert add is not None
        for key, record in pairs:
            old = values.get(key, _ABSENT)
            if old is _ABSENT and initial is None:
                values[key] = record
            else:
                values[key] = add(initial() if old is _ABSENT and initial is not None else old, record)

    def refuse(self, batch: Batch, index: int, key: Any, error: Exception) -> None:
        """One record could not be taken up."""
        self.failures.bury(batch, index, error if is_hashable(key) else unhashable(self.plan.name, key))

    def flush(self) -> None:
        items = list(self.values.items())
        if self._stock is None:  # a checkpoint may still want them
            self.values.clear()
        if not items:
            return
        self.stats.created += len(items)
        ticket = self.context.ledger.create(self.plan.name, len(items), self.context.clock.monotonic())
        lineage = Lineage(ticket, len(items), KeyRids(self.plan.name, [key for key, _ in items]))
        self.emit(Batch(items, (lineage,)))


class KeyRids(Origin):
    """Results of a reduction: rid ``<step>/<key>``."""

    __slots__ = ("_keys", "_step")

    def __init__(self, step: str, keys: Sequence[Any]) -> None:
        super().__init__()
        self._step = step
        self._keys = keys

    def _make(self) -> list[str]:
        return [f"{self._step}/{_spelled(key)}" for key in self._keys]

    def condensed(self) -> Origin:
        return Given(self.rids())


def _spelled(key: Any) -> str:
    """A key as part of a rid: different keys are spelled differently, however long."""
    text = shorten(repr(key) if isinstance(key, str) else key, MAX_KEY_CHARS + 1)
    if len(text) <= MAX_KEY_CHARS:
        return text
    digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: MAX_KEY_CHARS - 20]}#{digest[:19]}"


def unhashable(step: str, key: Any) -> RecordError:
    return RecordError(
        "E414",
        "a key must be hashable",
        at=f"step {step!r}",
        got=f"{type(key).__name__} {shorten(key, 60)}",
        expected="a string, a number, or a tuple of such",
    )
