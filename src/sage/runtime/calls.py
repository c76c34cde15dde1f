"""Stages that call a function for each record, or for a list of them: map and filter."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from time import perf_counter
from typing import Any, TypeVar, cast

from sage.errors import PipelineError, RecordError
from sage.flow.graph import StepPlan
from sage.record import Batch
from sage.runtime.context import RuntimeContext
from sage.runtime.deadline import Deadline
from sage.runtime.failures import LOST, GaveUp, Interrupted
from sage.runtime.recall import Recall
from sage.runtime.stage import SharedOperator, Stage

F = TypeVar("F", bound=Callable[..., None])


Loop = Callable[[Callable[[Any], Any], Iterator[Any], Callable[[Any], None]], None]


def _loop(call: Callable[[Any], Any], records: Iterator[Any], append: Callable[[Any], None]) -> None:
    for record in records:
        append(call(record))


def _strict_loop(call: Callable[[Any], Any], records: Iterator[Any], append: Callable[[Any], None]) -> None:
    for record in records:
        result = call(record)
        if result is None:
            raise ReturnedNone
        append(result)


def own_copy(loop: F) -> F:
    """The same function with code of its own: the interpreter specialises the call inside for one callee (PEP 659), and
    stages that shared the code would take that from one another. It makes calls of plain functions twice as fast."""
    assert isinstance(loop, types.FunctionType)
    return cast("F", types.FunctionType(loop.__code__.replace(), loop.__globals__, loop.__name__))


def truth_loop(call: Callable[[Any], Any], records: Iterator[Any], append: Callable[[Any], None]) -> None:
    for record in records:
        append(not not call(record))  # noqa: SIM208 -- whatever its truth costs or raises belongs here


class ReturnedNone(Exception):
    """The operator returned None; translated, with the name of the step, where it is handled."""


class CallStage(Stage):
    """A stage that calls one function for each record."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, shared: SharedOperator) -> None:
        super().__init__(plan, context)
        self._shared = shared
        self._deadline = Deadline(shared.operator, plan.timeout_s, plan.name) if plan.timeout_s else None
        self.call: Callable[[Any], Any] = self._deadline or shared.operator
        self._loop = own_copy(self.loop())
        self._recall = recall_of(plan, context)

    def loop(self) -> Loop:
        """Appends the results; raises where a result is a failure of the record."""
        return _loop

    def open(self) -> None:
        self._shared.open()

    def close(self) -> None:
        if self._deadline is not None:
            self._deadline.close()
        self._shared.close()

    def push(self, batch: Batch) -> None:
        count = len(batch)
        self.stats.received += count
        started = perf_counter()
        outcome = self.process(batch)
        took = perf_counter() - started
        self.stats.busy_s += took
        self.stats.calls.record(took / count, count)
        if outcome is not None:
            self.emit(outcome)

    def process(self, batch: Batch) -> Batch | None:
        """What to emit for `batch`."""
        raise NotImplementedError

    def call_each(self, batch: Batch) -> tuple[list[Any], Batch]:
        """Call the function for each record: the results, and the part of `batch` that has one.

        No record is given to the function again because another one failed. A durable step calls for none whose
        result it has.
        """
        if self._recall is None:
            return self._call_each(batch)
        return self._recall.each(batch, self._call_each, lambda one, error: self._recover(one, 0, error))

    def _call_each(self, batch: Batch) -> tuple[list[Any], Batch]:
        records = batch.records
        self.failures.policy.called(len(records))
        results: list[Any] = []
        failed: list[int] = []
        waiting = iter(records)
        while True:
            try:
                self._loop(self.call, waiting, results.append)
                break
            except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                index = len(records) - operator.length_hint(waiting) - 1
                result = self._recover(batch, index, error)
                if result is LOST:
                    failed.append(index)
                else:
                    results.append(result)
        if not failed:
            return results, batch
        return results, batch.select(without(failed, len(records)))

    def _recover(self, batch: Batch, index: int, error: Exception) -> Any:
        """The result of a later attempt, or a replacement; `LOST` if the record goes no further."""
        if isinstance(error, ReturnedNone):
            error = returned_none(self.plan.name)
        try:
            return self.failures.retry(lambda: self._call_once(batch.records[index]), error)
        except GaveUp as end:
            return self.replaced(self.failures.give_up(batch, index, end.cause, end.attempts))
        except Interrupted:
            return LOST

    def replaced(self, replacement: Any) -> Any:
        """The result that stands for a `replacement` record (or `LOST`)."""
        return replacement

    def _call_once(self, record: Any) -> Any:
        results: list[Any] = []
        try:
            self._loop(self.call, iter((record,)), results.append)
        except ReturnedNone:
            raise returned_none(self.plan.name) from None
        return results[0]

    def resume(self, one: Batch, error: Exception) -> None:
        """Go on with a batch of one record, whose first call, made elsewhere, raised `error`."""
        result = self._recover(one, 0, error)
        if result is not LOST:
            self.go_on([result], one)

    def go_on(self, results: list[Any], batch: Batch) -> None:
        """Go on with records that were called elsewhere, given one result for each."""
        outcome = self.complete(results, batch)
        if outcome is not None:
            self.emit(outcome)

    def complete(self, results: list[Any], batch: Batch) -> Batch | None:
        """What to emit, given one result for each record of `batch`."""
        raise NotImplementedError

    def refuse(
        self, results: list[Any], batch: Batch, bad: list[int], error: Callable[[Any], Exception]
    ) -> tuple[list[Any], Batch]:
        """Give up on the records at the indexes `bad`, whose results are not what the step may return."""
        mask = [True] * len(results)
        for index in bad:
            replacement = self.failures.give_up(batch, index, error(results[index]))
            if replacement is LOST:
                mask[index] = False
            else:
                results[index] = self.replaced(replacement)
        return list(compress(results, mask)), batch.select(mask)


class MapStage(CallStage):
    """One record out for each record in."""

    def loop(self) -> Loop:
        return _strict_loop

    def process(self, batch: Batch) -> Batch:
        return self.complete(*self.call_each(batch))

    def complete(self, results: list[Any], batch: Batch) -> Batch:
        if results and isinstance(results[0], types.CoroutineType):  # all are, or none: it is the same function
            for coroutine in results:
                coroutine.close()
            raise PipelineError(
                "E219",
                "the operator is a plain function that returns coroutines",
                at=f"step {self.plan.name!r}",
                try_="async def, so that SAGE knows to await it",
            )
        return batch.with_records(results)


class BatchMapStage(CallStage):
    """One call for a list of records. A list that fails is halved until the records at fault are alone."""

    def process(self, batch: Batch) -> Batch | None:
        self.failures.policy.called()
        parts = [done for done in self._process(batch, 1) if done.records]
        for part in parts[:-1]:
            self.emit(part)
        return parts[-1] if parts else None

    def _process(self, batch: Batch, attempts: int) -> list[Batch]:
        try:
            try:
                results = self._call(batch)
            except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                results = self.failures.retry(lambda: self._call(batch), error, attempts)
        except GaveUp as end:
            if len(batch) > 1:
                half, spent = len(batch) // 2, self.plan.retries + 1
                return self._process(batch.slice(0, half), spent) + self._process(batch.slice(half, len(batch)), spent)
            replacement = self.failures.give_up(batch, 0, end.cause, end.attempts)
            return [] if replacement is LOST else [batch.with_records([replacement])]
        except Interrupted:
            return []
        bad = [index for index, result in enumerate(results) if result is None]
        if bad:
            results, batch = self.refuse(results, batch, bad, lambda _: returned_none(self.plan.name))
        return [batch.with_records(results)]

    def _call(self, batch: Batch) -> list[Any]:
        return self._call_now(batch) if self._recall is None else self._recall.together(batch, self._call_now)

    def _call_now(self, batch: Batch) -> list[Any]:
        return checked_list(self.call(batch.records), len(batch), self.plan.name)


class FilterStage(CallStage):
    """Keeps the records for which the predicate is true."""

    def loop(self) -> Loop:
        return truth_loop

    def process(self, batch: Batch) -> Batch:
        return self.complete(*self.call_each(batch))

    def complete(self, verdicts: list[Any], batch: Batch) -> Batch:
        """The records of `batch` whose verdict is true."""
        kept = batch.select(verdicts)
        if len(kept) < len(batch):
            drop(self, batch, verdicts, len(batch) - len(kept))
        return kept


def recall_of(plan: StepPlan, context: RuntimeContext) -> Recall | None:
    """What a durable step of a run with a job directory asks before it calls."""
    results = None if context.durability is None else context.durability.results(plan)
    return None if results is None else Recall(results, context.control)


def drop(stage: Stage, batch: Batch, mask: Sequence[Any], dropped: int) -> None:
    """Settle the `dropped` records of `batch` where `mask` is false as filtered at `stage`."""
    stage.stats.filtered += dropped
    if len(batch.lineage) == 1:
        stage.context.ledger.settle(batch.lineage[0].ticket, dropped)
        return
    for part, piece in batch.pieces(mask):
        stage.context.ledger.settle(part.ticket, part.count - sum(map(bool, piece)))


def without(indexes: Sequence[int], count: int) -> list[bool]:
    """A mask of `count` entries that is false at `indexes`."""
    mask = [True] * count
    for index in indexes:
        mask[index] = False
    return mask


def returned_none(step: str) -> RecordError:
    return RecordError(
        "E412", "the operator returned None", at=f"step {step!r}", expected="a record",
        try_="return the record, or use filter or flat_map to drop records",
    )  # fmt: skip


def checked_list(results: Any, expected: int, step: str) -> list[Any]:
    """`results` as a list of `expected` results, or a `RecordError`."""
    if isinstance(results, str | bytes | dict) or not isinstance(results, Iterable):
        found = type(results).__name__
    else:
        listed: list[Any] = list(results)
        if len(listed) == expected:
            return listed
        found = f"{len(listed)} results"
    raise RecordError(
        "E416",
        "the operator must return one result for each record of its batch",
        at=f"step {step!r}",
        got=found,
        expected=f"{expected} results",
    )
