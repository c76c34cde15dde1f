"""A run of a pipeline on this machine: started, looked at, stopped, concluded."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import InternalError, PipelineError, RecordError, SageError, StorageError
from sage.flow.graph import ExecutionGraph
from sage.flow.operator import Operator
from sage.flow.step import Kind
from sage.runtime.account import Account
from sage.runtime.assembly import Wiring
from sage.runtime.context import RuntimeContext
from sage.runtime.control import Control
from sage.runtime.crew import Crew
from sage.runtime.deadletters import DeadLetters, reason_of
from sage.runtime.dispatcher import Dispatcher, Instruction
from sage.runtime.ledger import Book, DurableBook
from sage.runtime.outcome import JobSnapshot, RunOptions, RunResult, Status
from sage.runtime.stats import latency_of
from sage.runtime.terminals import CollectStage, SinkStage
from sage.runtime.worker import Ended, Event

if TYPE_CHECKING:  # it knows of queues, which take 20 ms to import
    from sage.runtime.durability.directory import JobDirectory
    from sage.runtime.engine import Engine

MAX_OPEN_RECORDS = 10_000
"""Records read and not yet finished at most; then the sources wait."""
ABORT_GRACE_S = 1.0
"""How long threads may take to notice an abort before they are left behind."""
END_GRACE_S = 5.0
"""How long threads may take to end after they said that they are done."""


class Job:
    """One run. `start` returns at once; `wait` gives the result; `stop` drains, `abort` does not."""

    def __init__(self, graph: ExecutionGraph, options: RunOptions, engine: Engine | None = None) -> None:
        """With an `engine`, the run has other hosts beside this process; the job closes it."""
        self._engine = engine
        self.run_id = secrets.token_hex(4)
        self._graph = graph
        self._options = options
        self._control = Control()
        self._dead_letters = DeadLetters(
            options.dead_letters or _letters_path(options, graph.pipeline),
            graph.pipeline,
            self.run_id,
            options.max_dead_letters,
            options.clock,
        )
        self._directory: JobDirectory | None = None
        self._book: Book
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._crew: Crew
        self._done = threading.Event()
        self._result: RunResult | None = None
        self._started_s = 0.0
        self._cancelled = False

    def start(self) -> Job:
        """Check sources, sinks and operators, then start. Raises before anything is read if one of them cannot work."""
        try:
            check_ends(self._graph)
            self._book = self._open_book()
            self._crew = self._hire()
        except BaseException:
            if self._directory is not None:
                self._directory.close()
            if self._engine is not None:
                self._engine.close()
            raise
        self._started_s = self._options.clock.monotonic()
        threading.Thread(target=self._drive, name="sage-dispatcher", daemon=True).start()
        return self

    def stop(self) -> None:
        """Read no more, finish what is in flight, give up what is parked. Returns at once."""
        self._cancelled = True
        self._control.stop()

    def abort(self) -> None:
        """End at once; what is in flight is left unfinished. Returns at once."""
        self._cancelled = True
        self._messages.put(None)

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """The result, when the run has ended. Raises TimeoutError if it has not by then."""
        if not self._done.wait(timeout_s) or self._result is None:
            raise TimeoutError(f"pipeline {self._graph.pipeline!r} still runs after {timeout_s} s")
        return self._result

    def snapshot(self) -> JobSnapshot:
        """The figures as they stand; from any thread."""
        p50_s, p99_s = latency_of(stats for some in self._crew.figures().values() for stats in some)
        return JobSnapshot(
            pipeline=self._graph.pipeline,
            status=self._result.status if self._result is not None else Status.RUNNING,
            stopping=self._cancelled,
            elapsed_s=self._result.elapsed_s if self._result is not None else self._elapsed_s(),
            account=self._result.account if self._result is not None else self._crew.account(),
            steps=self._crew.steps(),
            p50_s=p50_s,
            p99_s=p99_s,
        )

    def _elapsed_s(self) -> float:
        return self._options.clock.monotonic() - self._started_s

    def _open_book(self) -> Book:
        """The ledger, and what is on disk of it."""
        folder = self._options.job_dir
        if folder is None:
            self._dead_letters.set_aside()
            return Book(self._control, MAX_OPEN_RECORDS)
        from sage.runtime.durability.directory import JobDirectory  # SQLite, which other runs do not need

        self._directory = JobDirectory(folder, self._graph, self._messages.put, discarded=self._options.discard_steps)
        self._dead_letters.go_on()
        return DurableBook(self._control, MAX_OPEN_RECORDS, self._directory.progress)

    def _hire(self) -> Crew:
        """The hosts of the run. Raises `PipelineError` if the pipeline cannot be sent to them."""
        options, book, letters = self._options, self._book, self._dead_letters
        context = RuntimeContext(
            self._graph.pipeline, self.run_id, self._control, book, letters, options.clock, options.append,
            self._directory,
        )  # fmt: skip
        if self._engine is None:
            return Crew(self._graph, Wiring(self._graph, context), book, letters, self._messages)
        from sage.runtime.fleet import Fleet  # what starts processes takes 30 ms to import

        return Fleet(self._graph, context, book, letters, self._messages, engine=self._engine)

    def _drive(self) -> None:
        """Carry out the dispatcher's instructions until no worker is left."""
        dispatcher = Dispatcher(self._crew.members, self._crew.openers)
        self._crew.start()
        if self._directory is not None and isinstance(self._book, DurableBook):
            self._directory.start(self._book.cut, self._dead_letters.sync)
        until: float | None = None
        concluded = False
        while not concluded:
            try:
                message = self._messages.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break  # somebody does not notice the abort: leave it behind
            events = self._events_of(message)
            decided = (
                dispatcher.abort() if message is None else list(chain.from_iterable(map(dispatcher.handle, events)))
            )
            for instruction in decided:
                if instruction is Instruction.GO:
                    self._crew.go()
                elif instruction is Instruction.ABORT:
                    self._control.abort()
                    self._crew.go()
                    until = time.monotonic() + ABORT_GRACE_S
                else:
                    concluded = True
        self._conclude(dispatcher.failure)

    def _events_of(self, message: Any) -> Sequence[Event]:
        if isinstance(message, SageError):  # of the journal
            return [Ended("journal", message)]
        return () if message is None else self._crew.events_of(message)

    def _conclude(self, failure: BaseException | None) -> None:
        stuck, lost = self._crew.close(0.0 if self._control.aborted.is_set() else END_GRACE_S)
        error = _as_error(failure or lost)
        account = self._crew.account()
        cancelled = self._cancelled  # once: a stop that comes later finds the run over
        if error is None and not cancelled:
            error = self._imbalance(account, stuck)
        put_aside: list[str] = []
        try:
            self._dead_letters.close()
            if self._directory is not None:
                self._directory.pause(whole=not stuck)
            if error is None and not cancelled:
                self._commit()
        except Exception as refused:  # noqa: BLE001 -- the run's outermost edge: whatever a sink raises becomes its outcome
            error = error or _as_error(refused)
        if error is not None or cancelled:
            put_aside = self._abort_sinks()
        if self._directory is not None:
            self._directory.close()
        elapsed_s = self._elapsed_s()
        snapshot = self.snapshot()
        self._result = RunResult(
            pipeline=self._graph.pipeline,
            run_id=self.run_id,
            status=_status(error, account, cancelled=cancelled),
            account=account,
            elapsed_s=elapsed_s,
            steps=snapshot.steps,
            p50_s=snapshot.p50_s,
            p99_s=snapshot.p99_s,
            dead_letters=self._dead_letters.path if account.dead_lettered else None,
            error=error,
            put_aside=tuple(put_aside),
            goes_on=self._directory is not None,
            earlier=0 if self._directory is None else self._directory.earlier,
            _collected={s.plan.name: s.records for s in self._crew.stages_of(CollectStage)},
        )
        self._done.set()

    def _imbalance(self, account: Account, stuck: list[str]) -> SageError | None:
        """The proof that is due before a run may say that it succeeded."""
        open_records = self._book.open_records
        if account.missing == 0 and open_records == 0 and not stuck:
            return None
        return InternalError(
            "E901", "the account of records does not balance", at=f"pipeline {self._graph.pipeline!r}",
            got=f"{account}, {account.missing} missing, {open_records} open in the ledger, not ended: {stuck or '-'}",
            expected="every record to have exactly one end", try_="please report it; the outputs were not put in place",
        )  # fmt: skip

    def _commit(self) -> None:
        if self._directory is None:
            self._commit_sinks()
        else:
            self._directory.commit(self._commit_sinks)

    def _commit_sinks(self) -> None:
        for stage in self._crew.stages_of(SinkStage):
            stage.commit()

    def _abort_sinks(self) -> list[str]:
        put_aside = []
        for stage in self._crew.stages_of(SinkStage):
            try:
                where = stage.abort()
            except Exception as error:  # noqa: BLE001 -- the run is over already; its other sinks must be let go too
                where = f"nowhere ({reason_of(error)})"
            if where is not None:
                put_aside.append(where)
        return put_aside


def _letters_path(options: RunOptions, pipeline: str) -> Path:
    return Path(f"{pipeline}.dead.jsonl") if options.job_dir is None else options.job_dir / "dead.jsonl"


def check_ends(graph: ExecutionGraph) -> None:
    """Ask every source, sink and `Operator` whether it can work. Raises one error for all that cannot."""
    problems: list[SageError] = []
    for plan in graph.steps.values():
        if plan.kind in (Kind.READ, Kind.WRITE) or isinstance(plan.operator, Operator):
            try:
                plan.operator.check()
            except SageError as error:
                problems.append(error)
    if not problems:
        problems += _shared_partitions(graph)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise PipelineError("E200", f"{len(problems)} problems in pipeline {graph.pipeline!r}:{lines}")


def _shared_partitions(graph: ExecutionGraph) -> list[SageError]:
    """Two sources that give the same rids: an idempotent sink would take the second one's records for repeats."""
    readers: dict[str, str] = {}
    problems: list[SageError] = []
    for plan in graph.steps.values():
        for partition in plan.operator.partitions() if plan.kind is Kind.READ else ():
            first = readers.setdefault(partition, plan.name)
            if first != plan.name:
                problems.append(
                    PipelineError(
                        "E224",
                        "two sources give their records the same ids",
                        at=f"steps {first!r} and {plan.name!r}",
                        got=partition,
                        try_="use one stream twice, or give Items(...) a name of its own",
                    )
                )
    return problems


def _status(error: SageError | None, account: Account, *, cancelled: bool) -> Status:
    if error is not None:
        return Status.FAILED
    if cancelled:
        return Status.CANCELLED
    return Status.SUCCEEDED_WITH_DEAD_LETTERS if account.dead_lettered else Status.SUCCEEDED


def _as_error(failure: BaseException | None) -> SageError | None:
    if failure is None or isinstance(failure, SageError):
        return failure
    if isinstance(failure, OSError):
        error: SageError = StorageError("E650", f"the operating system refused: {reason_of(failure)}")
    elif isinstance(failure, Exception):
        error = RecordError("E411", f"an operator failed outside a record: {reason_of(failure)}")
    else:
        error = RecordError("E411", f"an operator ended its thread: {failure!r}")
    error.__cause__ = failure
    return error
