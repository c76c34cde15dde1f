"""Flat map: any number of records out for each record in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from sage.errors import RecordError, shorten
from sage.flow.graph import StepPlan
from sage.record import Batch
from sage.runtime.calls import CallStage, drop
from sage.runtime.context import RuntimeContext
from sage.runtime.failures import LOST
from sage.runtime.stage import SharedOperator, Stage

MOST_CHILDREN_HELD = 1024
"""Children of one record that `flat_map` holds before it passes them on."""


SIZED = frozenset({list, tuple, set, frozenset})
"""What `flat_map` takes apart at once: going through it is quick, and never raises."""


class FlatMapStage(CallStage):
    """Any number of records out for each record in."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, shared: SharedOperator) -> None:
        super().__init__(plan, context, shared)
        if self._recall is not None:
            self.call = _listing(self.call)

    def replaced(self, replacement: Any) -> Any:
        return one_or_many(replacement)

    def process(self, batch: Batch) -> Batch | None:
        return self.complete(*self.call_each(batch))

    def complete(self, results: list[Any], batch: Batch) -> Batch | None:
        types = set(map(type, results))
        if not types <= {list, tuple}:
            bad = [index for index, result in enumerate(results) if not is_many(result)]
            if bad:
                results, batch = self.refuse(results, batch, bad, lambda result: not_many(self.plan.name, result))
                types = set(map(type, results))
            if not types <= SIZED:
                self._unroll(results, batch)
                return None
        return expanded(self, batch, results)

    def _unroll(self, results: list[Iterable[Any]], batch: Batch) -> None:
        """Iterators may be long, or raise in the middle: pass their children on in pieces."""
        for index, result in enumerate(results):
            parent = batch.slice(index, index + 1)
            waiting: Iterator[Any] | None = None
            passed = 0
            while True:
                children: list[Any] = []
                try:
                    waiting = iter(result) if waiting is None else waiting
                    children.extend(islice(waiting, MOST_CHILDREN_HELD))
                except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                    self._pass_on(parent, children, passed)
                    self.failures.bury(parent, 0, error)
                    break
                if len(children) < MOST_CHILDREN_HELD:
                    self._last(parent, children, passed)
                    break
                self._pass_on(parent, children, passed)
                passed += len(children)

    def _pass_on(self, parent: Batch, children: list[Any], passed: int) -> None:
        """Emit some children; the parent itself stays open."""
        if children:
            self.stats.created += len(children)
            self.context.ledger.grow(parent.lineage[0].ticket, len(children))
            self.emit(parent.expand(self.plan.name, children, [len(children)], [passed]))

    def _last(self, parent: Batch, children: list[Any], passed: int) -> None:
        """Emit the last children; the parent becomes one of them, or ends as filtered if there are none at all."""
        if children:
            self._pass_on(parent, children[:-1], passed)
            self.emit(parent.expand(self.plan.name, children[-1:], [1], [passed + len(children) - 1]))
        elif passed:
            self.stats.created -= 1
            self.context.ledger.settle(parent.lineage[0].ticket, 1)
        else:
            drop(self, parent, [False], 1)


def expanded(stage: Stage, batch: Batch, results: list[Any]) -> Batch:
    """The children in `results` (sized, one collection per record), settled with the ledger."""
    return born(stage, batch, list(chain.from_iterable(results)), list(map(len, results)))


def born(stage: Stage, batch: Batch, children: list[Any], counts: list[int]) -> Batch:
    """The batch of `children`, ``counts[i]`` of them from record i of `batch`, settled with the ledger."""
    empty = counts.count(0)
    stage.stats.filtered += empty
    stage.stats.created += len(children) - (len(counts) - empty)
    for part, piece in batch.pieces(counts):
        more = sum(piece) - part.count
        if more > 0:
            stage.context.ledger.grow(part.ticket, more)
        elif more < 0:
            stage.context.ledger.settle(part.ticket, -more)
    return batch.expand(stage.plan.name, children, counts)


def _listing(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A call that ends with its last child: what is to be stored must be there."""

    def listed(record: Any) -> Any:
        result = call(record)
        return list(result) if is_many(result) else result

    return listed


def is_many(result: Any) -> bool:
    """Whether `flat_map` may take `result` apart. Text, bytes and mappings are almost always one record by mistake."""
    return isinstance(result, Iterable) and not isinstance(result, str | bytes | bytearray | dict)


def one_or_many(replacement: Any) -> Any:
    """What a replacement record given by ``on_error`` means for `flat_map`: itself, or several records."""
    return replacement if replacement is LOST or is_many(replacement) else [replacement]


def not_many(step: str, result: Any) -> RecordError:
    return RecordError(
        "E413", "the operator of flat_map must return an iterable of records", at=f"step {step!r}",
        got=f"{type(result).__name__} {shorten(result, 60)}", try_="return a list, or yield",
    )  # fmt: skip
