"""Fused runs: `map` and `filter`, perhaps behind a `flat_map`, perhaps before a reduction, as one generated loop.

Pushing columns through steps one by one costs a list per step and cools the cache. The generated loop does per record
what a person would write by hand. It keeps what the steps promise: a record that fails is found by where the loop
stood, and only this record goes on, one at a time, through the ordinary stages; nothing is called twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from time import perf_counter

from sage.record import Batch
from sage.runtime.calls import CallStage, FilterStage, MapStage, without
from sage.runtime.flattening import FlatMapStage, born
from sage.runtime.keys import KeyStage, ReduceStage
from sage.runtime.loops import Loop, Passage, Stop, counts
from sage.runtime.stage import Stage, Target

MEASURE_EVERY = 64
"""Every so many batches go through the stages one by one, to learn what share of the time each step takes."""


class FusedRun:
    """Stands in front of a run of stages, takes the batches meant for the first and does the work of all.

    `head`, if there is one, makes the records that `calls` are made for; each of them calls a function for a record.
    `reduction`, if there is one, takes up what the last of them (which gives the keys) lets through. Without it, what
    gets through is emitted by the last of `calls`.
    """

    def __init__(self, head: FlatMapStage | None, calls: Sequence[CallStage], reduction: ReduceStage | None) -> None:
        self._head = head
        self._calls = calls
        self._reduction = reduction
        self._inner: list[Stage] = [*calls, *([reduction] if reduction is not None else [])]
        self._stages: list[Stage] = [*([head] if head is not None else []), *self._inner]
        self._filters = any(isinstance(stage, FilterStage) for stage in calls)
        self._loop = Loop(head, calls, reduction)
        self._shares: list[float] = []
        self._pushed = 0
        self._steps_back = False

    def stand_in(self, stages: Sequence[Stage], head: Target) -> Target:
        """Let whoever pushed to the first stage of the run push here. Returns what is the head of the task now."""
        first = self._stages[0]
        for stage in stages:
            for targets in stage.branches.values():
                targets[:] = [self if target is first else target for target in targets]
        return self if head is first else head

    def finish(self) -> None:
        self._stages[0].finish()

    def push(self, batch: Batch) -> None:
        if self._steps_back:
            self._stages[0].push(batch)
            return
        self._pushed += 1
        if self._pushed % MEASURE_EVERY == 1:
            self._measure(batch)
            return
        started = perf_counter()
        passage = self._loop.take(batch)
        outcome = self._settled(batch if self._head is None else self._children(self._head, batch, passage), passage)
        took_s = perf_counter() - started
        for stage, share in zip(self._stages, self._shares, strict=True):
            records = len(batch) if stage is self._head else sum(passage.sizes)
            stage.stats.busy_s += took_s * share
            if records:
                stage.stats.calls.record(took_s * share / records, records)
        if self._reduction is None:
            self._stages[-1].emit(outcome)
        else:
            self._reduction.stats.merged += len(outcome)
            self._reduction.context.ledger.settle_all(outcome.lineage)

    def _measure(self, batch: Batch) -> None:
        before = [stage.stats.busy_s for stage in self._stages]
        self._stages[0].push(batch)
        took = [stage.stats.busy_s - start for stage, start in zip(self._stages, before, strict=True)]
        self._shares = [part / (sum(took) or 1.0) for part in took]

    def _children(self, head: FlatMapStage, batch: Batch, passage: Passage) -> Batch:
        """The records that `calls` were made for; they have gone by, so that only their lineage is true."""
        head.failures.policy.called(len(batch))
        head.stats.received += len(batch)
        for index, error in passage.broken.items():
            head.resume(batch.slice(index, index + 1), error)
        for index, result in passage.odd.items():
            head.go_on([result], batch.slice(index, index + 1))
        self._steps_back = len(passage.odd) > len(batch) // 2  # iterators are their own way of not filling the memory
        sizes = passage.sizes
        if passage.broken or passage.odd:
            mask = without([*passage.broken, *passage.odd], len(batch))
            batch, sizes = batch.select(mask), list(compress(sizes, mask))
        children = born(head, batch, [None] * sum(sizes), sizes)
        head.stats.emitted += len(children)
        return children

    def _settled(self, batch: Batch, passage: Passage) -> Batch:
        """The part of `batch` that got through, with its results (a reduction has taken it up and gives none)."""
        stopped = passage.stopped
        self._count(len(batch), passage)
        dropped = sum(passage.dropped)
        if dropped:
            self._drop(batch, passage, dropped)
        if not stopped and not dropped:
            return batch if self._reduction is not None else batch.with_records(passage.results)
        for stop in stopped:
            self._resume(batch.slice(stop.at, stop.at + 1), stop)
        mask = passage.kept if self._filters else without([stop.at for stop in stopped], len(batch))
        return batch.select(mask, None if self._reduction is not None else passage.results)

    def _count(self, received: int, passage: Passage) -> None:
        stopped_at = [stop.step for stop in passage.stopped]
        for index, stage in enumerate(self._inner):
            dropped = passage.dropped[index] if index < len(self._calls) else 0
            stage.failures.policy.called(received)
            stage.stats.received += received
            received -= dropped + stopped_at.count(index)
            if stage is not self._stages[-1]:
                stage.stats.emitted += received
            stage.stats.filtered += dropped

    def _resume(self, one: Batch, stop: Stop) -> None:
        """Give a record that failed the treatment of the ordinary stage."""
        one = one.with_records([stop.value])
        if stop.step < len(self._calls):
            self._calls[stop.step].resume(one, stop.error)
        elif self._reduction is not None:
            self._reduction.refuse(one, 0, stop.key, stop.error)

    def _drop(self, batch: Batch, passage: Passage, dropped: int) -> None:
        ledger = self._stages[0].context.ledger
        if len(batch.lineage) == 1:
            ledger.settle(batch.lineage[0].ticket, dropped)
            return
        for part, piece in batch.pieces(passage.kept):
            ledger.settle(part.ticket, list(piece).count(False))


def fused_runs(stages: Sequence[Stage]) -> list[FusedRun]:
    """The runs of two or more stages, among the stages of one task, that can be one loop.

    A `flat_map` heads a run that can also do without it: some records go through it the ordinary way.
    """
    runs: list[FusedRun] = []
    taken: set[str] = set()
    for stage in stages:
        if stage.plan.name in taken:
            continue
        head = stage if isinstance(stage, FlatMapStage) and _is_fusable(stage) else None
        calls, reduction = _run_from(stage, head)
        if head is None:
            taken.update(part.plan.name for part in calls)
        if len(calls) + (head is not None) + (reduction is not None) > 1:
            runs.append(FusedRun(head, calls, reduction))
    return runs


def _run_from(stage: Stage, head: FlatMapStage | None) -> tuple[list[CallStage], ReduceStage | None]:
    calls: list[CallStage] = []
    following = stage if head is None else _only_target(head)
    while isinstance(following, MapStage | FilterStage) and _is_fusable(following):
        calls.append(following)
        following = _only_target(following)
    if isinstance(following, KeyStage):
        reduction = _only_target(following)
        whole = head is not None and not calls and following.plan.operator is None
        kept = reduction is not None and reduction.context.durability is not None  # it must see whole batches
        if isinstance(reduction, ReduceStage) and not kept and (whole or not counts(reduction)):
            return [*calls, following], reduction
    return calls, None


def _is_fusable(stage: CallStage) -> bool:
    """A deadline and a journal need to know of each call."""
    return stage.plan.timeout_s is None and not (stage.plan.durable and stage.context.durability is not None)


def _only_target(stage: Stage) -> Stage | None:
    """The one stage of this task behind `stage`, if nothing else is behind it or before that."""
    targets = stage.branches.get("", [])
    if len(targets) == 1 and isinstance(targets[0], Stage) and len(targets[0].plan.inputs) == 1:
        return targets[0]
    return None
