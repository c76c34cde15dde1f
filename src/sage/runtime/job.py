"""A run of a pipeline on this machine: started, looked at, stopped, concluded."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import HostError, SageError
from sage.flow.graph import ExecutionGraph
from sage.runtime.account import Account
from sage.runtime.assembly import Wiring
from sage.runtime.attempt import Attempt, Ending
from sage.runtime.context import RuntimeContext
from sage.runtime.control import Aborted, Control
from sage.runtime.crew import Crew
from sage.runtime.deadletters import DeadLetters, reason_of
from sage.runtime.durable import Progress, StepBill
from sage.runtime.ends import check_ends
from sage.runtime.handover import Handover
from sage.runtime.ledger import MAX_OPEN_RECORDS, Book, DurableBook
from sage.runtime.outcome import JobSnapshot, RunOptions, RunResult, Status
from sage.runtime.restarts import Restarts
from sage.runtime.stats import latency_of
from sage.runtime.suspects import Suspects
from sage.runtime.terminals import CollectStage, SinkStage
from sage.runtime.verdict import error_of, imbalance, status_of
from sage.settings import load as load_settings

if TYPE_CHECKING:  # it knows of queues, which take 20 ms to import
    from sage.runtime.durability.directory import JobDirectory
    from sage.runtime.engine import Engine


class Job:
    """One run. `start` returns at once; `wait` gives the result; `stop` drains, `abort` does not."""

    def __init__(self, graph: ExecutionGraph, options: RunOptions, engine: Engine | None = None) -> None:
        """With an `engine`, the run has other hosts beside this process; the job closes it."""
        self._engine = engine
        self.run_id = os.urandom(4).hex()  # the module `secrets` takes 7 ms to import
        self._graph = graph
        self._options = options
        self._dead_letters = DeadLetters(
            options.dead_letters or _letters_path(options, graph.pipeline),
            graph.pipeline,
            self.run_id,
            options.max_dead_letters,
            options.clock,
        )
        self._directory: JobDirectory | None = None
        self._handover: Handover | None = None
        self._restarts = Restarts(_restarts_of(options, engine), options.restart_window_s)
        self._suspects = Suspects()
        self._begun: Attempt | None = None
        """The one at work, or the last one; None until the first is ready."""
        self._done = threading.Event()
        self._result: RunResult | None = None
        self._started_s = 0.0
        self._cancelled = False
        self._aborted = False

    def start(self) -> Job:
        """Check sources, sinks and operators, then start. Raises before anything is read if one of them cannot work;
        KeyboardInterrupt if it is aborted while hosts start."""
        try:
            check_ends(self._graph)
            self._open_directory()
            self._begun = self._prepared(None)
        except BaseException as failure:
            if self._directory is not None:
                self._directory.close()
            if self._engine is not None:
                self._engine.close()
            if isinstance(failure, Aborted):  # before there was anything to end
                raise KeyboardInterrupt from None
            raise
        self._started_s = self._options.clock.monotonic()
        threading.Thread(target=self._drive, name="sage-dispatcher", daemon=True).start()
        return self

    @property
    def notices(self) -> tuple[str, ...]:
        """What to know of a run with a job directory, each with a code; from `start` on."""
        return () if self._directory is None else self._directory.notices

    def stop(self) -> None:
        """Read no more, finish what is in flight, give up what is parked. Returns at once."""
        self._cancelled = True
        self._pass_on()
        if self._directory is not None:
            self._directory.hurry()

    def abort(self) -> None:
        """End at once; what is in flight is left unfinished. Returns at once."""
        self._cancelled = self._aborted = True
        self._pass_on()
        if self._engine is not None:
            self._engine.give_up()
        if self._directory is not None:
            self._directory.hurry()

    def _pass_on(self) -> None:
        """Tell the attempt that was asked to end, if there is one and it was."""
        if self._cancelled and self._begun is not None:
            self._begun.control.stop()
        if self._aborted and self._begun is not None:
            self._begun.abort()

    @property
    def _attempt(self) -> Attempt:
        assert self._begun is not None, "the job was started"
        return self._begun

    def limit_in_flight(self, records: int) -> None:
        """From now on, let so many records be read and not finished at most (at least 1)."""
        self._attempt.book.limit(records)

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """The result, when the run has ended. Raises TimeoutError if it has not by then."""
        if not self._done.wait(timeout_s) or self._result is None:
            raise TimeoutError(f"pipeline {self._graph.pipeline!r} still runs after {timeout_s} s")
        return self._result

    def snapshot(self) -> JobSnapshot:
        """The figures as they stand; from any thread."""
        crew = self._attempt.crew
        p50_s, p99_s = latency_of(stats for some in crew.figures().values() for stats in some)
        return JobSnapshot(
            pipeline=self._graph.pipeline,
            status=self._result.status if self._result is not None else Status.RUNNING,
            stopping=self._cancelled,
            elapsed_s=self._result.elapsed_s if self._result is not None else self._elapsed_s(),
            account=self._result.account if self._result is not None else crew.account(),
            steps=crew.steps(),
            p50_s=p50_s,
            p99_s=p99_s,
            restarts=tuple(self._restarts.losses),
            hosts=crew.hosts(len(self._restarts.losses) + 1),
            placed=crew.placed(),
            routes=crew.routes(),
            waits_for=None if self._directory is None else self._directory.stalled,
        )

    def _elapsed_s(self) -> float:
        return self._options.clock.monotonic() - self._started_s

    def _open_directory(self) -> None:
        folder = self._options.job_dir
        if folder is None:
            self._dead_letters.set_aside()
        else:
            from sage.runtime.durability.directory import JobDirectory  # SQLite, which other runs do not need

            discarded, reuse = self._options.discard_steps, self._options.reuse
            self._directory = JobDirectory(folder, self._graph, self._journal_failed, discarded=discarded, reuse=reuse)
            self._dead_letters.go_on()
        if self._engine is not None:
            self._handover = Handover(self._directory)

    def _journal_failed(self, error: SageError) -> None:
        self._attempt.tell(error)

    def _prepared(self, before: Attempt | None) -> Attempt:
        """The first attempt, or the one that goes on where the attempt `before` stood. Raises `PipelineError` if the
        pipeline cannot be sent to the hosts, `HostError` if they cannot be started."""
        control = Control()
        messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        book = self._book(control, None if before is None else before.book)
        options, letters = self._options, self._dead_letters
        context = RuntimeContext(
            self._graph.pipeline, self.run_id, control, book, letters, options.clock, options.append,
            self._handover or self._directory,
        )  # fmt: skip
        if self._engine is None or self._handover is None:
            return Attempt(
                control, messages, book, Crew(self._graph, Wiring(self._graph, context), book, letters, messages)
            )
        from sage.runtime.fleet import Fleet  # what starts processes takes 30 ms to import

        each_second = self._handover.cut
        crew = Fleet(
            self._graph, context, book, letters, messages,
            engine=self._engine, suspects=self._suspects, each_second=each_second,
        )  # fmt: skip
        return Attempt(control, messages, book, crew)

    def _book(self, control: Control, before: Book | None) -> Book:
        most = self._options.max_in_flight or MAX_OPEN_RECORDS
        if isinstance(before, DurableBook):
            book = before.successor(control)
        elif self._directory is not None:
            book = DurableBook(control, most, self._directory.progress)
        elif self._handover is not None:
            book = DurableBook(control, most, lambda _: Progress())
        else:
            return Book(control, most)
        if self._handover is not None:
            self._handover.attach(book)
        return book

    def _drive(self) -> None:
        try:
            self._go_to_the_end()
        except BaseException as failure:  # noqa: BLE001 -- the run's outermost edge: whoever waits has to hear of it
            self._give_up(failure)
        self._done.set()

    def _give_up(self, failure: BaseException) -> None:
        """Let go of what can be let go, after a defect."""
        put_aside: list[str] = []
        with suppress(Exception):
            put_aside = self._abort_sinks()
        for held in (self._engine, self._handover, self._directory):
            with suppress(Exception):
                if held is not None:
                    held.close()
        self._result = RunResult(
            self._graph.pipeline, self.run_id, Status.FAILED, Account(), self._elapsed_s(), (), None, None,
            None, error_of(failure), tuple(put_aside), {}, notices=self.notices, goes_on=self._directory is not None,
        )  # fmt: skip

    def _go_to_the_end(self) -> None:
        self._attempt.start()
        self._pass_on()
        if self._directory is not None and isinstance(self._attempt.book, DurableBook):
            cut = self._attempt.book.cut if self._handover is None else self._handover.cut
            self._directory.start(cut, self._dead_letters.sync)
        ending = self._attempt.drive()
        while ending.loss is not None and not self._cancelled:
            ending = self._begin_again(ending.loss) or self._attempt.drive()
        self._conclude(ending)

    def _begin_again(self, loss: HostError) -> Ending | None:
        """Start the next attempt; or how the run ends, if there is none."""
        if not self._restarts.allow(loss, self._options.clock.monotonic()):
            return Ending(self._restarts.refused(loss), [], None)
        assert self._handover is not None
        before = self._attempt
        if self._suspects.died(before.crew.lost_hosts):
            self._restarts.forgive()
        try:
            self._handover.release(before.crew.lost_processes)
            self._dead_letters.begin_again()
            self._begun = self._prepared(before)
        except Aborted:
            return Ending(None, [], None)
        except HostError as error:
            return Ending(error, [], error if error.code != "E813" else None)
        except SageError as error:
            return Ending(error, [], None)
        self._attempt.start()
        self._pass_on()  # what came meanwhile
        return None

    def _conclude(self, ending: Ending) -> None:
        if self._engine is not None:
            self._engine.close()
        crew = self._attempt.crew
        error = None if ending.failure is None else error_of(ending.failure)
        account = crew.account()
        cancelled = self._cancelled  # once: a stop that comes later finds the run over
        if error is None and not cancelled:
            error = imbalance(self._graph.pipeline, account, self._attempt.book.open_records, ending.stuck)
        put_aside: list[str] = []
        bill: tuple[StepBill, ...] = ()
        try:
            self._dead_letters.close()
            if self._directory is not None:
                bill = self._directory.bill()
                self._directory.pause(whole=not ending.stuck)
            if error is None and not cancelled:
                self._commit()
        except BaseException as refused:  # noqa: BLE001 -- whatever a sink raises becomes the run's outcome
            error = error or error_of(refused)
        if error is not None or cancelled:
            put_aside = self._abort_sinks()
        if self._handover is not None:
            self._handover.close()
        if self._directory is not None:
            self._directory.close()
        elapsed_s = self._elapsed_s()
        snapshot = self.snapshot()
        lettered = account.dead_lettered + (self._dead_letters.earlier if self._restarts.losses else 0)
        self._result = RunResult(
            pipeline=self._graph.pipeline,
            run_id=self.run_id,
            status=status_of(error, lettered=lettered > 0, cancelled=cancelled),
            account=account,
            elapsed_s=elapsed_s,
            steps=snapshot.steps,
            p50_s=snapshot.p50_s,
            p99_s=snapshot.p99_s,
            dead_letters=self._dead_letters.path if lettered else None,
            error=error,
            put_aside=tuple(put_aside),
            bill=bill,
            notices=self.notices,
            placed=snapshot.placed,
            routes=snapshot.routes,
            goes_on=self._directory is not None,
            earlier=self._earlier(),
            restarts=snapshot.restarts,
            _collected={s.plan.name: s.records for s in crew.stages_of(CollectStage)},
        )

    def _earlier(self) -> int:
        """Source records that were finished before the account begins."""
        earlier = 0 if self._directory is None else self._directory.earlier
        return earlier + (self._attempt.book.finished_before if isinstance(self._attempt.book, DurableBook) else 0)

    def _commit(self) -> None:
        if self._directory is None:
            self._commit_sinks()
        else:
            self._directory.commit(self._commit_sinks)

    def _commit_sinks(self) -> None:
        for stage in self._attempt.crew.stages_of(SinkStage):
            stage.commit()

    def _abort_sinks(self) -> list[str]:
        put_aside = []
        orphans = () if self._handover is None else self._handover.orphans()
        for sink in (*self._attempt.crew.stages_of(SinkStage), *orphans):
            try:
                where = sink.abort()
            except BaseException as error:  # noqa: BLE001 -- the run is over already; its other sinks must be let go too
                where = f"nowhere ({reason_of(error)})"
            if where is not None:
                put_aside.append(where)
        return put_aside


def _restarts_of(options: RunOptions, engine: Engine | None) -> int:
    if engine is None:
        return 0
    return load_settings().restarts if options.restarts is None else options.restarts


def _letters_path(options: RunOptions, pipeline: str) -> Path:
    return Path(f"{pipeline}.dead.jsonl") if options.job_dir is None else options.job_dir / "dead.jsonl"
