"""A stage: one step at work in one worker. Batches are pushed in; what comes out is pushed to the targets.

Fused steps are stages whose targets are stages: a plain method call lies between them, no queue and no copy.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sage.flow.graph import StepPlan
from sage.flow.operator import OperatorContext
from sage.record import Batch
from sage.runtime.context import RuntimeContext
from sage.runtime.failures import Failures
from sage.runtime.stats import StepStats


class Target(Protocol):
    """Where batches go: the next stage of the task, or a connection to another task."""

    def push(self, batch: Batch) -> None:
        """Take a batch (not empty). May wait; raises `Aborted`."""

    def finish(self) -> None:
        """One of the inputs has ended."""


class Stage:
    """The base of all stages. Used by one thread, or by the event loop."""

    def __init__(self, plan: StepPlan, context: RuntimeContext) -> None:
        self.plan = plan
        self.context = context
        self.stats = StepStats(plan.name)
        self.failures = Failures(plan, context, self.stats)
        self._outputs: dict[str, list[Target]] = {}
        self._open_inputs = max(1, len(plan.inputs))

    def leads(self) -> None:
        """This stage is the head of its task: all its inputs come through one inbox, which ends once."""
        self._open_inputs = 1

    def connect(self, branch: str, target: Target) -> None:
        """Send what leaves by `branch` ("" but for a route) to `target`; each target of a branch gets all of it."""
        self._outputs.setdefault(branch, []).append(target)

    def look(self) -> None:
        """Bring the figures up to date that are not counted as things happen; from any thread."""

    def open(self) -> None:
        """Get ready. Called once before the first batch."""

    def push(self, batch: Batch) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """The input has ended: emit what was held back."""

    def close(self) -> None:
        """Let go of everything; also after a failure, and also if `open` failed or never ran."""

    def finish(self) -> None:
        """One of the inputs has ended; after the last one, so has the output."""
        self._open_inputs -= 1
        if self._open_inputs == 0:
            self.flush()
            for targets in self._outputs.values():
                for target in targets:
                    target.finish()

    def emit(self, batch: Batch, branch: str = "") -> None:
        """Push `batch` on. Where a stream is used more than once, further targets get copies, with ids of their own."""
        if not batch.records:
            return
        self.stats.emitted += len(batch)
        targets = self._outputs[branch]
        if len(targets) > 1:
            copies = (len(targets) - 1) * len(batch)
            self.stats.created += copies
            self.stats.emitted += copies
            for part in batch.lineage:
                self.context.ledger.grow(part.ticket, (len(targets) - 1) * part.count)
            for number, target in enumerate(targets[1:], start=1):
                target.push(self._copy(batch, number))
        targets[0].push(batch)

    def _copy(self, batch: Batch, number: int) -> Batch:
        records = [_copied(record) for record in batch.records]
        return batch.expand(f"{self.plan.name}#copy", records, [1] * len(records), [number] * len(records))

    @property
    def branches(self) -> Mapping[str, list[Target]]:
        return self._outputs


def figures_of(stages: Sequence[Stage]) -> list[StepStats]:
    """The figures of some stages as they stand."""
    for stage in stages:
        stage.look()
    return [stage.stats for stage in stages]


def _copied(record: Any) -> Any:
    """Records with keys get a shallow copy, so that steps which add to them do not see one another's additions."""
    return record.copy() if type(record) in (dict, list, set) else record


class SharedOperator:
    """The live copy of a step's operator. Workers of one instance share it: opened by the first, closed by the last."""

    def __init__(self, operator: Any, context: OperatorContext, workers: int) -> None:
        self.operator = operator
        self._context = context
        self._workers = workers
        self._opened = False
        self._lock = threading.Lock()

    @property
    def instance(self) -> int:
        return self._context.instance

    def open(self) -> Any:
        """Call the operator's ``open(context)``, if it has one and was not opened yet; returns what that returned."""
        with self._lock:
            if self._opened:
                return None
            self._opened = True
            opener = getattr(self.operator, "open", None)  # any object of the user's may be an operator
            if callable(opener) and _is_instance(self.operator):
                return opener(self._context)
            return None

    def close(self) -> Any:
        """A worker is done; the last one calls the operator's ``close()`` and returns what that returned."""
        with self._lock:
            self._workers -= 1
            last = self._workers == 0 and self._opened
        if last:
            closer = getattr(self.operator, "close", None)
            if callable(closer) and _is_instance(self.operator):
                return closer()
        return None


def _is_instance(operator: Any) -> bool:
    return not isinstance(operator, type) and not hasattr(operator, "__code__")
