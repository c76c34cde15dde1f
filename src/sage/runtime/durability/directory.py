"""The job directory, opened by the process that drives a run.

What is in it is told in `opening.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from sage import codec
from sage.errors import SageError, UsageError
from sage.flow.graph import ExecutionGraph, StepPlan
from sage.runtime.durability.billing import add, bill_of_run, by_run
from sage.runtime.durability.checkpoint import Checkpoints, applied_of, progress_of
from sage.runtime.durability.doubts import doubts_of
from sage.runtime.durability.lock import JobLock
from sage.runtime.durability.manifest import (
    Manifest,
    changed_steps,
    check_inputs,
    check_same,
    manifest_of,
    to_bytes,
)
from sage.runtime.durability.near import StepJournals
from sage.runtime.durability.opening import (
    CALLS,
    COMMITTING,
    FINISHED,
    JOURNAL,
    LOCK,
    MANIFEST,
    STAGE,
    begin,
    deaths,
    make,
    recover,
)
from sage.runtime.durability.reuse import question_of
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durable import Cut, FarBranch, Kept, Look, Progress, Question, Share, StepBill


class JobDirectory(StepJournals):
    """All of it, in the process that drives the run. Locked until `close`."""

    def __init__(
        self, folder: Path, graph: ExecutionGraph, failed: Callable[[SageError], None], *,
        discarded: Collection[str] = (), reuse: Path | None = None,
    ) -> None:  # fmt: skip
        """Make the directory for a new job, or get ready to go on.

        Raises `StorageError` (E603 while another run is under way, E604 to E607, E611, E612), `UsageError` E115 if the
        job has finished, `PipelineError` E226 if the pipeline cannot be made to outlive its process.
        """
        now = manifest_of(graph)
        durable = [plan for plan in graph.steps.values() if plan.durable]
        self._questions = None if reuse is None else {plan.name: question_of(plan) for plan in durable}
        self._doubts = doubts_of(graph)
        make(folder)
        self._lock = JobLock(folder / LOCK)
        try:
            if not (folder / JOURNAL).exists():
                begin(folder, to_bytes(now))
            epoch = recover(folder)
            super().__init__(folder, epoch, failed, reuse=reuse)
        except BaseException:
            self._lock.close()
            raise
        try:
            self._continue(now, discarded, failed)
        except BaseException:
            self.close()
            raise

    @property
    def earlier(self) -> int:
        """Records that earlier runs have finished."""
        return sum(progress.records for progress in self._progress.values())

    @property
    def notices(self) -> tuple[str, ...]:
        """What whoever started the run should know: what is not kept as the rest is."""
        trouble = None if self._reuse is None else self._reuse.trouble
        return self._doubts if trouble is None else (*self._doubts, f"W311 results were not all reused: {trouble}")

    def bill(self) -> tuple[StepBill, ...]:
        """What the calls of this run came to: here so far, and in those of its other processes that have ended."""
        others = (row for row in self._rows.each(RowKind.BILL) if row[0] != self._bill_key)
        counts = by_run(others).get(self.epoch, {})
        add(counts, self._counts())
        return bill_of_run(counts)

    @property
    def committing(self) -> bool:
        return self._meta(STAGE) == COMMITTING

    def progress(self, partition: str) -> Progress:
        return self._progress.get(partition, Progress())

    def partition(self, partition: str, *, replayable: bool) -> str:
        return partition if replayable or self.epoch == 1 else f"{partition}~{self.epoch}"

    def applied(self, step: str) -> set[str]:
        return self._applied.get(step, set())

    def output(self, step: str) -> Any:
        stored = self._rows.get(RowKind.OUTPUT, step.encode("utf-8", "surrogatepass"))
        return None if stored is None else codec.decode(stored)

    def state(self, step: str) -> Sequence[tuple[Any, Any]]:
        prefix = step.encode("utf-8", "surrogatepass") + b"\0"
        stored = [codec.decode(value) for key, value in self._rows.each(RowKind.STATE) if key.startswith(prefix)]
        return [(key, value) for key, value in stored]

    def collected(self, step: str) -> list[Any]:
        prefix = step.encode("utf-8", "surrogatepass") + b"\0"
        some = (value for key, value in self._rows.each(RowKind.COLLECTED) if key.startswith(prefix))
        return [record for value in some for record in codec.decode(value)]

    def enlist(self, stock: Kept) -> None:
        self._checkpoints.enlist(stock.keeper)

    def start(self, cut: Callable[[], Cut], sync: Callable[[], None]) -> None:
        """Begin to take checkpoints; `sync` makes dead letters safe."""
        self._sync = sync
        self._checkpoints.start(cut)

    def begin_again(self, lost: Collection[int]) -> None:
        """The run begins again while it lives: keep all that it did so far, count the calls that died with its hosts,
        the processes `lost`, and know the results that there are. Raises `StorageError`."""
        self._checkpoints.begin_again()
        files = [self.folder / f"{CALLS}{self.epoch}-{process}" for process in lost]
        left = [path for path in files if path.exists()]
        self._recorder.wait(self._recorder.record(deaths(self._rows, left, self.epoch + 1)))
        for path in self.folder.glob(f"{CALLS}{self.epoch}-*"):
            if path.name != f"{CALLS}{self.epoch}-{os.getpid()}":
                path.unlink()
        self._begun = True
        self._look_up()

    def far_branch(self) -> FarBranch:
        shared = frozenset() if self._reuse is None else self._reuse.beginnings()
        return FarBranch(
            self.job, self.epoch, self._versions, frozenset(self._known), self._deaths, self._questions, shared
        )

    def answer(self, question: Question, reply: Callable[[object], None]) -> None:
        if isinstance(question, Share):
            if self._reuse is not None:
                self._reuse.put_encoded(question.key, question.result)
        elif isinstance(question, Look) and question.shared:
            reply(None if self._reuse is None else self._reuse.get(question.key))
        elif isinstance(question, Look):
            stored = self._rows.get(RowKind.RESULT, question.key)
            reply(None if stored is None else self._blobs.loaded(stored))
        else:
            results = [change for change in question.changes if change.kind in (RowKind.RESULT, RowKind.ADOPTED)]
            self._recorder.record([change for change in question.changes if change.kind is RowKind.BILL])
            self._recorder.record(results, large=True, told=lambda: reply(self._recorder.failure))

    @property
    def stalled(self) -> SageError | None:
        """Why nothing can be kept at the moment, and the run waits."""
        return self._recorder.stalled

    def hurry(self) -> None:
        """The run is to end: wait for no room any more."""
        self._recorder.hurry()

    def pause(self, *, whole: bool) -> None:
        """The run is over, well or not: keep all that it did, if it is `whole`: nobody is still at it. Raises
        `StorageError` if that cannot be."""
        self._checkpoints.close(last=whole)

    def commit(self, sinks: Callable[[], None]) -> None:
        """All records have their end: put the outputs in place. A run that is killed here is finished by the next."""
        self._recorder.wait(self._recorder.record([Change(RowKind.META, STAGE, COMMITTING)]))
        sinks()
        self._recorder.wait(self._recorder.record([Change(RowKind.META, STAGE, FINISHED)]))

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._lock.close()

    def _sync_letters(self) -> None:
        self._sync()

    def _continue(self, now: Manifest, discarded: Collection[str], failed: Callable[[SageError], None]) -> None:
        if self._meta(STAGE) == FINISHED:
            raise UsageError(
                "E115", "the job in this directory has finished", at=str(self.folder), try_="another --job-dir"
            )
        check_same(self.manifest, now, str(self.folder), discarded)
        self._progress = {
            key.decode("utf-8", "surrogatepass"): progress_of(value) for key, value in self._rows.each(RowKind.POSITION)
        }
        check_inputs(self.manifest, now, self._progress, str(self.folder))
        if self._known:
            self._doubts += changed_steps(self.manifest, now)
        self._versions: dict[str, str] = {name: mark.version for name, mark in now.steps.items()}
        self._checkpoints = Checkpoints(
            self._recorder, self._sync_letters, failed, bill=self._bill, first=self.epoch << 40
        )
        self._applied: dict[str, set[str]] = {}
        for step, partition, last, key, rids in applied_of(self._rows.each(RowKind.APPLIED)):
            self._checkpoints.know(partition, last, key)
            self._applied.setdefault(step, set()).update(rids)
        if (now.steps, now.inputs) != (self.manifest.steps, self.manifest.inputs):
            merged = {**{n: mark for n, mark in self.manifest.steps.items() if n not in discarded}, **now.steps}
            inputs = list(dict.fromkeys((*self.manifest.inputs, *now.inputs)))
            changed = Manifest(self.job, now.pipeline, merged, inputs, now.sage, now.python)
            gone = self._rows_of([name for name in discarded if name not in now.steps])
            self._recorder.wait(self._recorder.record([Change(RowKind.META, MANIFEST, to_bytes(changed)), *gone]))

    def _rows_of(self, steps: Collection[str]) -> list[Change]:
        """What removes everything that is stored of these steps, but for results, which nobody will ask for."""
        names = {step.encode("utf-8", "surrogatepass") for step in steps}
        kinds = (RowKind.OUTPUT, RowKind.STATE, RowKind.COLLECTED)
        found = [(kind, key) for kind in kinds for key, _ in self._rows.each(kind) if key.split(b"\0")[0] in names]
        return [Change(kind, key, None) for kind, key in found]

    def _version(self, plan: StepPlan) -> str:
        return self._versions[plan.name]
