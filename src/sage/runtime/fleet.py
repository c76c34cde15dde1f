"""The crew of a run with several hosts: the user's own process, and others for what keeps a processor busy.

Hosts say what happened over their links, and everything is entered by one thread, that of the job. Which hosts there
are, how one is started, and what lies between two of them is the `Engine`'s business; a host that is lost ends the run.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sage.errors import SageError
from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.queues import Queue
from sage.runtime.account import Account
from sage.runtime.assembly import producers_of
from sage.runtime.books import Books
from sage.runtime.context import RuntimeContext
from sage.runtime.crew import Closing, Crew
from sage.runtime.crossing import CrossingWiring
from sage.runtime.deadletters import DeadLetters
from sage.runtime.durable import Branch, FarBranch
from sage.runtime.engine import Engine
from sage.runtime.host import Roster
from sage.runtime.ledger import Book
from sage.runtime.load import BufferLoad, HostSnapshot, RouteSnapshot, fullest, host_snapshot
from sage.runtime.member import Member
from sage.runtime.messages import (
    Answer,
    Asked,
    Close,
    Closed,
    Command,
    Figures,
    HostEnded,
    Lost,
    Parcel,
    Plan,
    Printed,
    TaskEnded,
    Trying,
    name_of,
)
from sage.runtime.parcel import packed
from sage.runtime.placement import HOME, Placed, Placement, producers_on, tasks_away
from sage.runtime.reports import Report, Reports
from sage.runtime.stats import StepStats
from sage.runtime.suspects import Suspects
from sage.runtime.worker import Ended, Event, Opened

CLOSE_GRACE_S = 0.25
"""How long the workers of another host may take to end after an abort, beyond what workers at home have."""
LAST_WORD_S = 0.5
"""How long a host may take after that to tell its last; then it is killed."""
EXIT_S = 2.0
"""How long a process may take to end after its last word."""


class Fleet(Crew):
    """The user's own process at home, and the hosts of `engine`."""

    def __init__(
        self,
        graph: ExecutionGraph,
        context: RuntimeContext,
        book: Book,
        letters: DeadLetters,
        messages: queue.SimpleQueue[Any],
        *,
        engine: Engine,
        suspects: Suspects,
        each_second: Callable[[], object],
    ) -> None:
        """The caller closes `engine`. `each_second` is called on a thread of the fleet's."""
        self._suspects = suspects
        self._engine = engine
        self._each_second = each_second
        self._durability = context.durability
        self._queues: dict[str, list[Queue[Any]]] = {}
        self._hosts: dict[int, Member] = {}
        self._figures: dict[int, Figures] = {}
        self._stuck: list[str] = []
        self._over = threading.Event()
        self._reports = Reports(HOME, messages.put)
        try:
            placement = engine.place(graph)
            self._why = placement.why
            placement = replace(placement, why=())
            fed = [task for task in graph.tasks if task.name in placement.queued]
            self._feeding = {task.name: producers_on(graph, task, placement) for task in fed}
            plan = self._plan(graph, context, placement, fed)
            self._crossing = CrossingWiring(
                graph, context, placement, self._queues,
                number=HOME, reports=self._reports, book=book, scheduler=engine.scheduler,
            )  # fmt: skip
            super().__init__(graph, self._crossing, book, letters, messages)
            for number, tasks in tasks_away(graph, placement).items():
                self._hosts[number] = Member(number, tasks, engine.host(number), plan)
        except BaseException:
            self._let_go(())
            raise
        self._books = Books(book, letters)
        self._roster = Roster(self._parts.workers)
        context.control.on_stop(lambda: self._command(Command.STOP))
        context.control.on_abort(self._abort)

    @property
    def members(self) -> Sequence[str]:
        return [*super().members, *map(name_of, self._hosts)]

    @property
    def openers(self) -> Sequence[str]:
        return [*super().openers, *map(name_of, self._hosts)]

    def start(self) -> None:
        self._reports.start()
        for host in self._hosts.values():
            host.start(self._messages.put)
        threading.Thread(target=self._watch, name="sage-leases", daemon=True).start()
        super().start()

    def go(self) -> None:
        self._command(Command.GO)
        super().go()

    def events_of(self, message: Any) -> Sequence[Event]:
        match message:
            case Opened():
                return [message]
            case Ended():  # of a worker at home
                task, _ = self._roster.ended(message.worker)
                if task is not None and message.error is None:
                    self._task_ended(task, HOME)
                return [message]
            case HostEnded(host, failure):
                return [Ended(name_of(host), None if failure is None else failure.error())]
            case Trying(host, worker, attempt):
                self._suspects.note(host, worker, attempt)
            case Asked():
                self._answer(message)
            case TaskEnded(host, task):
                self._task_ended(task, host)
            case Figures(host):
                self._figures[host] = message
            case Printed(text, is_error):
                print(text, end="", file=sys.stderr if is_error else sys.stdout, flush=True)
            case Report():
                return self._entered(message)
            case Closed(host, stuck):
                self._hosts[host].closed = True
                self._stuck += stuck
            case Lost(host, why):
                return self._lost(self._hosts[host], why)
        return []

    def _entered(self, report: Report) -> Sequence[Event]:
        try:
            self._books.take(report)
        except SageError as error:
            return [Ended("dead letters", error)]
        for task, (records, took_s) in report.done.items():
            self._crossing.done(report.host, task, records, took_s)
            self._end_input(task)
        return []

    def _answer(self, asked: Asked) -> None:
        """The journal answers from any thread."""
        host, number = self._hosts[asked.host], asked.number

        def reply(value: object) -> None:
            if number is not None:
                host.send(Answer(number, value))

        assert self._durability is not None
        try:
            self._durability.answer(asked.question, reply)
        except SageError as error:
            reply(error)

    def _lost(self, host: Member, why: str) -> Sequence[Event]:
        if host.closed:
            return []
        host.closed = True
        error = host.lost(why)
        self.lost.append(error)
        self.lost_hosts.append(host.number)
        if host.process is not None:
            self.lost_processes.append(host.process)
        return [Ended(name_of(host.number), error)]

    def close(self, grace_s: float) -> Closing:
        self._command(Close(grace_s + CLOSE_GRACE_S))
        self._stuck += self._host.close(grace_s)
        self._reports.close()
        failure = self._last_words(time.monotonic() + grace_s + CLOSE_GRACE_S + LAST_WORD_S)
        for host in self._hosts.values():
            if not host.ended.wait(EXIT_S):
                host.kill()
                host.ended.wait()
        self._over.set()
        self._let_go(self.lost_hosts)
        return Closing(self._stuck, failure)

    def account(self) -> Account:
        return self._books.account()

    def figures(self) -> Mapping[str, Sequence[StepStats]]:
        figures = {name: list(some) for name, some in super().figures().items()}
        for stats in self._crossing.refused:
            figures[stats.step].append(stats)
        for told in tuple(self._figures.values()):
            for name, some in told.steps.items():
                figures[name] += some
        return figures

    def loads(self) -> dict[str, BufferLoad]:
        told = [super().loads(), *(each.loads for each in tuple(self._figures.values()))]
        tasks = {task for loads in told for task in loads}
        return {task: fullest(loads[task] for loads in told if task in loads) for task in tasks}

    def hosts(self, attempt: int) -> tuple[HostSnapshot, ...]:
        away = [
            host_snapshot(name_of(told.host), told.steps, told.memory_bytes, attempt)
            for told in tuple(self._figures.values())
        ]
        return (*super().hosts(attempt), *away)

    def placed(self) -> tuple[Placed, ...]:
        return self._why

    def routes(self) -> tuple[RouteSnapshot, ...]:
        return tuple(router.snapshot(task) for task, router in self._crossing.routers.items())

    def waiting(self, task: str) -> int:
        on_the_way = self._crossing.balance().get(task, 0)
        on_the_way += sum(told.traffic.get(task, 0) for told in tuple(self._figures.values()))
        return super().waiting(task) + max(0, on_the_way)  # figures of two hosts are of two moments

    def _last_words(self, until: float) -> BaseException | None:
        """Take in what the hosts still tell, and kill those that do not close in time. Returns how one failed."""
        failure: BaseException | None = None
        while True:
            mute = [host for host in self._hosts.values() if not host.closed]
            try:
                message = self._messages.get(timeout=max(0.0, until - time.monotonic()) if mute else 0.0)
            except queue.Empty:
                for host in mute:
                    host.closed = True
                    host.kill()
                    self._stuck.append(name_of(host.number))
                return failure
            for event in self.events_of(message) if message is not None else ():
                failure = failure or (event.error if isinstance(event, Ended) else None)

    def _command(self, message: object) -> None:
        for host in self._hosts.values():
            host.send(message)

    def _abort(self) -> None:
        self._command(Command.ABORT)
        for some in self._queues.values():
            for each in some:
                each.close()

    def _plan(
        self, graph: ExecutionGraph, context: RuntimeContext, placement: Placement, fed: Sequence[TaskPlan]
    ) -> Parcel:
        """Make the queues; returns what every host is told."""
        ways = {}
        for task in fed:
            made = self._engine.queues(task, producers_of(task, graph), placement)
            ways[task.name] = [each.way for each in made]
            self._queues[task.name] = [each.queue for each in made]
        return packed(Plan(graph, placement, context.run_id, ways, context.clock, self._suspects.watch, self._branch()))

    def _branch(self) -> Branch | FarBranch | None:
        if self._durability is None:
            return None
        return self._durability.branch() if self._engine.sees_files else self._durability.far_branch()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            for host in self._hosts.values():
                host.tick()
            self._each_second()

    def _let_go(self, lost: Collection[int]) -> None:
        for some in self._queues.values():
            for each in some:
                each.close()
                each.detach()
        self._engine.clear(lost)

    def _task_ended(self, task: str, host: int) -> None:
        """A task that all its producers have left gets no more records."""
        for target, producers in tuple(self._feeding.items()):
            if (task, host) in producers:
                producers.discard((task, host))
                self._end_input(target)

    def _end_input(self, task: str) -> None:
        """Where nothing more comes, and what waits in a queue need not be offered to another host."""
        if self._feeding.get(task) == set() and not self._crossing.has_ahead(task):
            self._feeding.pop(task)
            for each in self._queues[task]:
                each.close()
