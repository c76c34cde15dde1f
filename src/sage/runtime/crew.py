"""The hosts of a run, as the job sees them: one to be started, let go, closed and looked at.

A `Crew` is the user's own process alone. `fleet.py` has the crew of several hosts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sage.errors import HostError
from sage.flow.graph import ExecutionGraph, Mode
from sage.processes import memory_bytes
from sage.runtime.account import Account
from sage.runtime.assembly import Wiring, assemble, workers_of
from sage.runtime.deadletters import DeadLetters
from sage.runtime.host import Host
from sage.runtime.ledger import Book
from sage.runtime.load import BufferLoad, HostSnapshot, RouteSnapshot, host_snapshot
from sage.runtime.placement import Placed
from sage.runtime.stage import figures_of
from sage.runtime.stats import StepSnapshot, StepStats, add_up
from sage.runtime.worker import Event

S = TypeVar("S")


class Closing(NamedTuple):
    """How the hosts ended."""

    stuck: list[str]
    """Workers that did not end."""
    failure: BaseException | None
    """A host was lost after all its work was done, and with it the last of what it had to tell."""


class Crew:
    """The user's own process. Made, started and closed once each, by one thread; looked at from any."""

    def __init__(
        self, graph: ExecutionGraph, wiring: Wiring, book: Book, letters: DeadLetters, messages: SimpleQueue[Any]
    ) -> None:
        self._graph = graph
        self._wiring = wiring
        self._book = book
        self._letters = letters
        self._messages = messages
        self._host = Host()
        self._parts = assemble(wiring, self._host)
        self.lost: list[HostError] = []
        """Hosts that were lost before the work was done."""
        self.lost_processes: list[int] = []
        self.lost_hosts: list[int] = []

    @property
    def members(self) -> Sequence[str]:
        """The names under which events come."""
        return [worker.name for worker in self._parts.workers]

    @property
    def openers(self) -> Sequence[str]:
        """Those of them that must be open before any may go."""
        return [worker.name for worker in self._parts.workers if worker.first]

    def start(self) -> None:
        """Begin to open everything; what happens is put into `messages`, for `events_of`."""
        self._host.start(self._parts.workers, self._messages.put)

    def events_of(self, message: Any) -> Sequence[Event]:
        """What a message means to the dispatcher."""
        return [message]

    def go(self) -> None:
        """Let the workers begin. After an abort they end at once."""
        self._host.go()

    def close(self, grace_s: float) -> Closing:
        """Wait up to `grace_s` for everybody to end, and leave nothing behind."""
        return Closing(self._host.close(grace_s), None)

    def account(self) -> Account:
        """The account as it stands."""

        def total(count: Callable[[StepStats], int]) -> int:
            return sum(count(stage.stats) for stages in self._parts.stages.values() for stage in stages)

        return Account(
            read=total(lambda s: s.read),
            created=total(lambda s: s.created),
            written=total(lambda s: s.written),
            dead_lettered=self._letters.count,
            filtered=total(lambda s: s.filtered),
            merged=total(lambda s: s.merged),
            unfinished=self._book.open_records,
        )

    def figures(self) -> Mapping[str, Sequence[StepStats]]:
        """The figures of every worker, by step."""
        return {name: figures_of(stages) for name, stages in self._parts.stages.items()}

    def waiting(self, task: str) -> int:
        """Records that wait in front of a task."""
        return self._wiring.waiting(self._graph.task_of(task))

    def steps(self) -> tuple[StepSnapshot, ...]:
        """Every step, over all its workers."""
        snapshots = []
        figures, loads = self.figures(), self.loads()
        for task in self._graph.tasks:
            for name in task.steps:
                plan = self._graph.steps[name]
                slots = task.instances * (
                    plan.concurrency if task.mode is Mode.ASYNC else workers_of(task, self._graph)
                )
                waiting = self.waiting(name) if name == task.name else 0
                found = add_up(name, plan.kind.value, figures[name], waiting=waiting, slots=slots)
                load = loads.get(name, BufferLoad())
                snapshots.append(replace(found, load=load.load, load_trend_per_s=load.trend_per_s))
        return tuple(snapshots)

    def loads(self) -> dict[str, BufferLoad]:
        """By task: how full the way to it is."""
        return self._wiring.loads()

    def hosts(self, attempt: int) -> tuple[HostSnapshot, ...]:
        """What each host does."""
        figures = {name: figures_of(stages) for name, stages in self._parts.stages.items()}
        return (host_snapshot("home", figures, memory_bytes([os.getpid()]), attempt),)

    def placed(self) -> tuple[Placed, ...]:
        """Why instances are on other hosts."""
        return ()

    def routes(self) -> tuple[RouteSnapshot, ...]:
        """Who gets what of tasks that are on several hosts."""
        return ()

    def stages_of(self, kind: type[S]) -> list[S]:
        """The stages of a kind that is always at home."""
        return [stage for stages in self._parts.stages.values() for stage in stages if isinstance(stage, kind)]
