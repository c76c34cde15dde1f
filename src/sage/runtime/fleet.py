"""The crew of a run with several hosts: the user's own process, and others for what keeps a processor busy.

Hosts say what happened over their links, and everything is entered by one thread, that of the job. How a host is
started and watched is its `Starter`'s business; a host that is lost ends the run.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sage.errors import HostError, PipelineError, SageError
from sage.flow.graph import ExecutionGraph, StepPlan, TaskPlan
from sage.flow.shipping import pack
from sage.queues import QueueDescriptor, SharedMemoryQueueDescriptor
from sage.runtime.account import Account
from sage.runtime.books import Books
from sage.runtime.context import RuntimeContext
from sage.runtime.crew import Closing, Crew
from sage.runtime.crossing import CrossingWiring
from sage.runtime.deadletters import DeadLetters, reason_of
from sage.runtime.edges import capacity_of
from sage.runtime.host import Roster
from sage.runtime.ledger import Book
from sage.runtime.messages import (
    Close,
    Closed,
    Command,
    Figures,
    HostEnded,
    Link,
    Lost,
    Plan,
    Setup,
    TaskEnded,
    name_of,
)
from sage.runtime.placement import HOME, Placement, edges_into, place
from sage.runtime.processes import HostProcess
from sage.runtime.reports import Report, Reports
from sage.runtime.stats import StepStats
from sage.runtime.worker import Ended, Event, Opened

CLOSE_GRACE_S = 0.25
"""How long the workers of another host may take to end after an abort, beyond what workers at home have."""
LAST_WORD_S = 0.5
"""How long a host may take after that to tell its last; then it is killed."""
EXIT_S = 2.0
"""How long a process may take to end after its last word."""


class HostHandle(Protocol):
    """A host that the driver started."""

    link: Link

    def start(self) -> None:
        """Start it. Raises OSError."""

    def wait(self) -> str:
        """Wait for its end, whatever it be; tell it in words, and end the link."""

    def kill(self) -> None:
        """End it at once, if it has not ended; from any thread."""


class Member:
    """The driver's end of one host: a thread that starts it and waits for its end, one that reads, one that writes.

    Writing has a thread of its own because a host that was stopped does not read, and nothing may wait for it.
    """

    def __init__(self, number: int, tasks: Sequence[str], handle: HostHandle) -> None:
        self.number = number
        self.closed = False
        self.ended = threading.Event()
        self._tasks = tasks
        self._handle = handle
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._tell: Callable[[object], None]

    def start(self, tell: Callable[[object], None]) -> None:
        """Start the host; what it says, and its end, go to `tell`."""
        self._tell = tell
        threading.Thread(target=self._live, name=f"sage-{name_of(self.number)}", daemon=True).start()

    def send(self, message: object) -> None:
        """Send soon. Never waits, and a host that is gone hears nothing."""
        self._outbox.put(message)

    def kill(self) -> None:
        self._handle.kill()

    def lost(self, why: str) -> HostError:
        """The error of a run that lost this host."""
        return HostError(
            "E810", f"{name_of(self.number)} is lost: {why}", at=f"steps {', '.join(self._tasks)}",
            try_="dmesg, if nobody killed it: the system does where memory is short",
        )  # fmt: skip

    def _live(self) -> None:
        try:
            self._handle.start()
        except OSError as error:
            self._tell(Lost(self.number, f"it could not be started ({error.strerror})"))
            self._handle.link.close()
            self.ended.set()
            return
        talk = [
            threading.Thread(target=work, name=f"sage-{name_of(self.number)}.{work.__name__}", daemon=True)
            for work in (self._read, self._write)
        ]
        for thread in talk:
            thread.start()
        why = self._handle.wait()
        self._outbox.put(None)
        for thread in talk:
            thread.join()
        self._handle.link.close()
        self._tell(Lost(self.number, why))
        self.ended.set()

    def _read(self) -> None:
        try:
            while (message := self._handle.link.receive()) is not None:
                self._tell(message)
        except Exception as error:  # noqa: BLE001 -- whatever unpickling raised: nobody waits for more from this host
            self._tell(Lost(self.number, f"what it says cannot be unpickled ({reason_of(error)})"))
            self.kill()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._handle.link.send(message)
            except OSError:  # it is gone
                return


class Fleet(Crew):
    """The user's own process at home, and `processes` more."""

    def __init__(
        self,
        graph: ExecutionGraph,
        context: RuntimeContext,
        book: Book,
        letters: DeadLetters,
        messages: queue.SimpleQueue[Any],
        *,
        processes: int,
    ) -> None:
        placement = place(graph, processes)
        fed = [task for task in graph.tasks if task.name in placement.queued]
        descriptors = {task.name: _descriptors(task) for task in fed}
        packed = _packed(Plan(_without_home(graph), placement, context.run_id, descriptors, context.clock))
        self._queues = {task: [descriptor.create() for descriptor in some] for task, some in descriptors.items()}
        self._reports = Reports(HOME, messages.put)
        self._crossing = CrossingWiring(
            graph, context, placement, self._queues, number=HOME, reports=self._reports, book=book
        )
        try:
            super().__init__(graph, self._crossing, book, letters, messages)
        except BaseException:
            self._let_queues_go()
            raise
        self._books = Books(book, letters)
        self._roster = Roster(self._parts.workers)
        self._figures: dict[int, Figures] = {}
        self._feeding = {task.name: _producers(graph, task, placement) for task in fed}
        self._stuck: list[str] = []
        self._hosts = {
            number: Member(number, tasks, HostProcess()) for number, tasks in _tasks_away(graph, placement).items()
        }
        for host in self._hosts.values():
            host.send(Setup(host.number, list(sys.path), packed))
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
            case TaskEnded(host, task):
                self._task_ended(task, host)
            case Figures(host):
                self._figures[host] = message
            case Report():
                try:
                    self._books.take(message)
                except SageError as error:
                    return [Ended("dead letters", error)]
            case Closed(host, stuck):
                self._hosts[host].closed = True
                self._stuck += stuck
            case Lost(host, why) if not self._hosts[host].closed:
                self._hosts[host].closed = True
                return [Ended(name_of(host), self._hosts[host].lost(why))]
        return []

    def close(self, grace_s: float) -> Closing:
        self._command(Close(grace_s + CLOSE_GRACE_S))
        self._stuck += self._host.close(grace_s)
        self._reports.close()
        failure = self._last_words(time.monotonic() + grace_s + CLOSE_GRACE_S + LAST_WORD_S)
        for host in self._hosts.values():
            if not host.ended.wait(EXIT_S):
                host.kill()
                host.ended.wait()
        self._let_queues_go()
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

    def _let_queues_go(self) -> None:
        for some in self._queues.values():
            for each in some:
                each.close()
                each.detach()

    def _task_ended(self, task: str, host: int) -> None:
        """A task that all its producers have left gets no more records."""
        for target, producers in self._feeding.items():
            if (task, host) in producers:
                producers.discard((task, host))
                if not producers:
                    for each in self._queues[target]:
                        each.close()


def _descriptors(task: TaskPlan) -> list[QueueDescriptor]:
    instances = 1 if task.keyed else task.instances
    count = task.instances if task.keyed else 1
    return [SharedMemoryQueueDescriptor(maxsize=capacity_of(instances)) for _ in range(count)]


def _producers(graph: ExecutionGraph, task: TaskPlan, placement: Placement) -> set[tuple[str, int]]:
    """The tasks that `task` gets its records from, and the hosts on which they run."""
    sources = {graph.task_of(edge.output.step).name for edge in edges_into(graph, task)}
    return {(source, host) for source in sources for host in placement.hosts[source]}


def _tasks_away(graph: ExecutionGraph, placement: Placement) -> dict[int, list[str]]:
    """The hosts that something is placed on, but for this one, and the tasks of each."""
    tasks: dict[int, list[str]] = {}
    for task in graph.tasks:
        for host in sorted(set(placement.hosts[task.name]) - {HOME}):
            tasks.setdefault(host, []).append(task.name)
    return tasks


def _without_home(graph: ExecutionGraph) -> ExecutionGraph:
    """The graph as other hosts need it: what runs only here is left out, and need not be picklable."""
    steps = {name: plan if plan.movable else _outline(plan) for name, plan in graph.steps.items()}
    return replace(graph, steps=steps)


def _outline(plan: StepPlan) -> StepPlan:
    return replace(plan, operator=None, on_error=plan.on_error if isinstance(plan.on_error, str) else "dead_letter")


def _packed(plan: Plan) -> tuple[bytes, list[bytes]]:
    """Raises `PipelineError` if something in it cannot be sent; for operators, the checks have said so before."""
    try:
        data, buffers = pack(plan)
    except Exception as error:
        raise PipelineError(
            "E215", "the pipeline cannot be pickled, so it cannot be sent to other processes",
            at=f"pipeline {plan.graph.pipeline!r}", got=reason_of(error), try_="processes=1",
        ) from error  # fmt: skip
    return data, [bytes(buffer.raw()) for buffer in buffers]
