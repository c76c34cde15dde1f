"""A host of a run that has lost one: it takes records one by one, and says which before it begins.

Of async steps as many calls are under way as ever (`watched_async.py`). Threads that share a step are not watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage.flow.graph import Mode, TaskPlan
from sage.record import Batch
from sage.runtime.crossing import CrossingWiring
from sage.runtime.failures import Failures, poison
from sage.runtime.inbox import Supply
from sage.runtime.ledger import MAX_OPEN_RECORDS
from sage.runtime.stats import StepStats
from sage.runtime.suspects import Say, Try, Watch

if TYPE_CHECKING:
    from sage.runtime.asynchronous import AsyncStage
    from sage.runtime.watched_async import Solitude


class WatchedWiring(CrossingWiring):
    """Workers that make one call at a time are watched, and async ones; `say` tells the driver."""

    def __init__(self, *parts: Any, watch: Watch, say: Say, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._watch = watch
        self._say = say
        self._solitude: Solitude | None = None
        """Of all async calls here, once there is such a step."""

    def async_stage(self, *parts: Any, **more: Any) -> AsyncStage:
        from sage.runtime.watched_async import Solitude, WatchedAsyncStage  # asyncio takes 40 ms to import

        self._solitude = self._solitude or Solitude()
        return WatchedAsyncStage(*parts, watch=self._watch, say=self._say, solitude=self._solitude, **more)

    def supply(self, task: TaskPlan, instance: int, worker: str) -> Supply:
        supply = super().supply(task, instance, worker)
        if task.mode in (Mode.THREADS, Mode.ASYNC):
            return supply
        stats = StepStats(task.name)
        self.refused.append(stats)
        failures = Failures(self.graph.steps[task.name], self.context_of(worker), stats)
        return Watched(supply, task.name, worker, failures=failures, watch=self._watch, say=self._say)


class Watched:
    """A supply that gives one record at a time, until as many came as can have been open when a host died."""

    def __init__(self, supply: Supply, step: str, worker: str, *, failures: Failures, watch: Watch, say: Say) -> None:
        self._supply = supply
        self._step = step
        self._worker = worker
        self._failures = failures
        self._condemned = watch.condemned
        self._say = say
        self._left = MAX_OPEN_RECORDS
        self._rest: Batch | None = None
        self._has_said = False

    def take(self, most: int, *, full: bool = False) -> Batch | None:
        """As `Supply.take`."""
        while True:
            batch, self._rest = self._rest, None
            if batch is None:
                self._say_nothing()
                batch = self._supply.take(most, full=full)
            if batch is None or self._left <= 0:
                self._say_nothing()
                return batch
            if len(batch) > 1:
                batch, self._rest = batch.slice(0, 1), batch.slice(1, len(batch))
            if not self._is_condemned(batch):
                return batch

    def _is_condemned(self, one: Batch) -> bool:
        self._left -= 1
        attempt = Try(self._step, one.rids[0])
        if attempt in self._condemned:
            self._failures.refuse(one, poison())
            return True
        self._has_said = True
        self._say(self._worker, attempt)
        return False

    def _say_nothing(self) -> None:
        if self._has_said:
            self._has_said = False
            self._say(self._worker, None)
