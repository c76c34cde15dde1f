"""What a step does with a record whose call raised: try again, let it wait, replace it, bury it, or end the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sage.errors import RecordError, SageError
from sage.flow.graph import StepPlan
from sage.record import Batch, Lineage
from sage.runtime.context import RuntimeContext
from sage.runtime.deadletters import reason_of
from sage.runtime.retry import Again, RetryBudget, RetryPolicy
from sage.runtime.stats import StepStats

T = TypeVar("T")

LOST = object()
"""Stands for the result of a record that goes no further: a dead letter, or unfinished because of a stop."""


class GaveUp(Exception):
    """No further attempt; `cause` is what the last one raised."""

    def __init__(self, cause: Exception, attempts: int) -> None:
        super().__init__(cause, attempts)
        self.cause = cause
        self.attempts = attempts


class Interrupted(Exception):
    """A stop was asked for while the record waited for its next attempt. It stays unfinished."""


@dataclass(slots=True)
class Tries:
    """How often one call was made, and how often its record was parked."""

    attempts: int = 1
    parks: int = 0

    def count(self, again: Again) -> None:
        self.parks += again.parked
        self.attempts += not again.parked


class Failures:
    """The failure policy of one step in one worker."""

    def __init__(self, plan: StepPlan, context: RuntimeContext, stats: StepStats) -> None:
        self._plan = plan
        self._context = context
        self._stats = stats
        self.policy = RetryPolicy(plan.retries, RetryBudget())

    def next_try(self, error: Exception, tries: Tries) -> Again:
        """How long to wait before the next attempt. Raises `GaveUp`, or `error` itself if it is fatal."""
        if isinstance(error, SageError) and error.fatal:
            raise error
        again = self.policy.after(error, tries.attempts, tries.parks, self._context.clock.monotonic())
        if again is None:
            raise GaveUp(error, tries.attempts) from error
        if again.parked:
            self._stats.parked_reason = reason_of(error)
        else:
            self._stats.retries += 1
        tries.count(again)
        return again

    def retry(self, call: Callable[[], T], error: Exception, attempts: int = 1) -> T:
        """Make `call` again after it raised `error`, as often as the policy allows, on this thread.

        Raises `GaveUp`, `Interrupted`, or a fatal error.
        """
        tries = Tries(attempts)
        while True:
            again = self.next_try(error, tries)
            self._stats.parked += again.parked
            in_time = self._context.control.pause(again.wait_s)
            self._stats.parked -= again.parked
            if not in_time:
                raise Interrupted
            self._stats.paused_s += again.wait_s
            try:
                return call()
            except Exception as next_error:  # noqa: BLE001 -- any exception of an operator is an outcome
                error = next_error

    def give_up(self, batch: Batch, index: int, error: Exception, attempts: int = 1) -> Any:
        """Apply ``on_error`` to one record. Returns its replacement, or `LOST` if it has become a dead letter."""
        record = batch.records[index]
        on_error = self._plan.on_error
        if on_error == "fail":
            raise RecordError(
                "E411", f"a record failed and the step says on_error='fail': {reason_of(error)}",
                at=f"step {self._plan.name!r}, record {batch.rids[index]}",
            ) from error  # fmt: skip
        if callable(on_error):
            try:
                replacement = on_error(record, error)
            except Exception as second:  # noqa: BLE001 -- it failed too: bury the record with both
                second.__context__ = error
                error = second
            else:
                if replacement is not None:
                    return replacement
        self.bury(batch, index, error, attempts)
        return LOST

    def refuse(self, batch: Batch, error: Exception) -> None:
        """One record cannot even be brought to the step: a dead letter, or the end of the job."""
        self._stats.received += 1
        if self._plan.on_error == "fail":
            self.give_up(batch, 0, error)
        self.bury(batch, 0, error)

    def bury(self, batch: Batch, index: int, error: Exception, attempts: int = 1) -> None:
        """Make one record a dead letter."""
        self._context.dead_letters.add(batch.rids[index], self._plan.name, error, attempts, batch.records[index])
        self._stats.dead_lettered += 1
        self._context.ledger.settle(lineage_at(batch, index).ticket, 1)
        self._context.dead_letters.check_limit()


def poison() -> RecordError:
    """Of a record that has killed its process."""
    return RecordError(
        "E419", "the process died three times while this record was worked on, the last time it was alone",
        try_="look at the record; the call is not made again",
    )  # fmt: skip


def lineage_at(batch: Batch, index: int) -> Lineage:
    """The stretch of lineage that record `index` belongs to."""
    for part in batch.lineage:
        if index < part.count:
            return part
        index -= part.count
    raise IndexError(index)
