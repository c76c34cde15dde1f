"""Routes and unions: where records part, and where they meet."""

from __future__ import annotations

from sage.errors import RecordError
from sage.flow.step import OTHERWISE
from sage.record import Batch
from sage.runtime.calls import CallStage, Loop, truth_loop
from sage.runtime.stage import Stage


class RouteStage(CallStage):
    """Sends each record to the first branch whose predicate is true."""

    def loop(self) -> Loop:
        return truth_loop

    def push(self, batch: Batch) -> None:
        self.stats.received += len(batch)
        rest = batch
        for branch, predicate in self.plan.operator:
            if not rest.records:
                return
            self.call = predicate
            verdicts, rest = self.call_each(rest)
            if any(verdicts):
                self.emit(rest.select(verdicts), branch)
                rest = rest.select([not taken for taken in verdicts])
        if OTHERWISE in self.branches:
            self.emit(rest, OTHERWISE)
            return
        for index, record in enumerate(rest.records):
            error = RecordError(
                "E415",
                "no branch takes this record",
                at=f"step {self.plan.name!r}",
                got=record,
                try_="use branches.otherwise",
            )
            self.failures.bury(rest, index, error)


class UnionStage(Stage):
    """Passes everything on."""

    def push(self, batch: Batch) -> None:
        self.stats.received += len(batch)
        self.emit(batch)
