"""The wiring of a host that is one of several: tasks that are fed from elsewhere take from queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sage.flow.graph import RECORDS_PER_BATCH, Edge, ExecutionGraph, TaskPlan
from sage.queues import Queue
from sage.runtime.assembly import Wiring, producers_of, workers_of
from sage.runtime.context import RuntimeContext
from sage.runtime.edges import Item, Outlet, QueueInbox, far_ticket, largest_item
from sage.runtime.failures import Failures
from sage.runtime.host import Worker
from sage.runtime.inbox import Inbox, Supply
from sage.runtime.ledger import Book
from sage.runtime.messages import name_of
from sage.runtime.placement import Placement
from sage.runtime.reports import LettersOnTheWay, Reports, WorkerLedger
from sage.runtime.rhythm import Rhythm
from sage.runtime.routed import Metered, RoutedOutlet, move
from sage.runtime.router import Router
from sage.runtime.routing import Connection
from sage.runtime.stage import Target
from sage.runtime.stats import StepStats
from sage.runtime.supply import SharedSupply, SoleSupply
from sage.runtime.worker import ThreadWorker, gathering_body, inbox_body
from sage.scheduling import Scheduler

GATHER_S = 0.016
"""How long results wait at most for those of their neighbours, where these come closer than that."""
LOOK_S = 0.002
"""The same where they come from many hosts: so long nobody looks whether there is something in the queue."""


class CrossingWiring(Wiring):
    """Between the workers of host `number` and all others. `book` is there at home only."""

    def __init__(
        self,
        graph: ExecutionGraph,
        context: RuntimeContext,
        placement: Placement,
        queues: Mapping[str, Sequence[Queue[Item]]],
        *,
        number: int,
        reports: Reports,
        book: Book | None,
        scheduler: Scheduler | None = None,
        done: Callable[[str, int, float], object] | None = None,
    ) -> None:
        """At home a `scheduler` says who gets what of routed tasks; elsewhere `done` tells what became of it."""
        super().__init__(graph, context)
        self._scheduler = scheduler
        self._done = done
        self.routers: dict[str, Router] = {}
        """By task that is routed."""
        self._number = number
        self._placement = placement
        self._queues = queues
        self._reports = reports
        self._book = book
        self._contexts: dict[str, RuntimeContext] = {}
        self._ledgers: dict[str, WorkerLedger] = {}
        self._carriers: list[Worker] = []
        self._arrivals: dict[tuple[str, int], Inbox] = {}
        self._shared: dict[str, SharedSupply] = {}
        self._soles: dict[str, SoleSupply] = {}
        self._departures: dict[Edge, Inbox] = {}
        self._outlets: dict[str, list[Outlet]] = {}
        self._supplies: dict[str, list[QueueInbox]] = {}
        self.refused: list[StepStats] = []
        """Of steps that records could not be sent to."""

    def instances(self, task: TaskPlan) -> Sequence[int]:
        return self._placement.at(self._number, task)

    def capacity(self, task: TaskPlan) -> int:
        """The share of this host."""
        if task.keyed:
            return task.capacity
        return max(task.take, -(-task.capacity * len(self.instances(task)) // task.instances))

    def context_of(self, worker: str) -> RuntimeContext:
        if worker not in self._contexts:
            ledger = self._ledgers[worker] = self._reports.ledger_of(worker, self._book)
            letters = LettersOnTheWay(ledger, self.context.pipeline, self.context.run_id, self.context.clock)
            self._contexts[worker] = replace(self.context, ledger=ledger, dead_letters=letters)
        return self._contexts[worker]

    def made(self, worker: str, stats: Sequence[StepStats]) -> None:
        self._ledgers[worker].stats += stats

    def supply(self, task: TaskPlan, instance: int, worker: str) -> Supply:
        if task.name not in self._placement.queued:
            return super().supply(task, instance, worker)
        supply = self._crossed(task, instance)
        if self._done is None or task.name not in self._placement.routed:
            return supply
        return Metered(supply, partial(self._done, task.name))

    def _crossed(self, task: TaskPlan, instance: int) -> Supply:
        workers = len(self.instances(task)) * workers_of(task, self.graph)
        if self.graph.steps[task.name].batch_size is not None:
            return self._arriving(task, instance)
        if task.instances * workers_of(task, self.graph) == 1:
            return self._sole(task)
        if task.keyed or workers == 1:
            return self._arriving(task, instance)
        shared = self._shared.get(task.name)
        if shared is None:
            shared = self._shared[task.name] = SharedSupply(self._arriving(task, 0), workers, self.context.control)
        return shared

    def _sole(self, task: TaskPlan) -> SoleSupply:
        source = self._arriving(task, 0)
        rhythm = Rhythm(source.room, LOOK_S)
        supply = self._soles[task.name] = SoleSupply(source, rhythm)
        return supply

    def _arriving(self, task: TaskPlan, instance: int) -> QueueInbox:
        supply = QueueInbox(
            self._queues[task.name][self._queue_of(task, instance)],
            step=task.name,
            reports=self._reports,
            ticket_of=far_ticket if self._book is None else self._book.ticket,
            control=self.context.control,
        )
        self._supplies.setdefault(task.name, []).append(supply)
        return supply

    def _queue_of(self, task: TaskPlan, instance: int) -> int:
        return instance if task.keyed else 0  # of a routed task there is only this host's own

    def inbox(self, task: TaskPlan, instance: int) -> Inbox:
        """Several workers, or an event loop, take from an inbox, and a carrier from the queue."""
        if task.name not in self._placement.queued:
            return super().inbox(task, instance)
        place = task.name, instance if task.keyed else 0
        inbox = self._arrivals.get(place)
        if inbox is None:
            inbox = self._arrivals[place] = Inbox(self._ahead(task), self.context.control, producers=1)
            name = f"{self._number}>{task.name}/{instance}"
            connection = Connection([inbox], self.context_of(name).ledger, keyed=False, keeps_keys=True)
            self._carry(name, task, self._arriving(task, instance), connection)
        return inbox

    def connection(self, edge: Edge, worker: str) -> Target:
        """What several workers of this host have for another task leaves together."""
        target = self.target_of(edge)
        if target.name not in self._placement.queued:
            return super().connection(edge, worker)
        if target.name in self._placement.routed:
            return self._before_router(edge, worker)
        source = self.graph.task_of(edge.output.step)
        workers = len(self.instances(source)) * workers_of(source, self.graph)
        if workers == 1:
            return self._outward(target, worker)
        inbox = self._departures.get(edge)
        if inbox is None:
            inbox = self._departures[edge] = Inbox(target.capacity, self.context.control, producers=workers)
            name = f"{self._number}:{edge.output.step}.{edge.output.branch}>{target.name}"
            rhythm = Rhythm(2 * workers, GATHER_S)
            self._carry(name, source, inbox, self._outward(target, name), rhythm)
        return Connection([inbox], self.context_of(worker).ledger, keyed=False, keeps_keys=True)

    def _before_router(self, edge: Edge, worker: str) -> Connection[Inbox]:
        """What waits for the scheduler waits together, so that it can be divided as its cost wants it."""
        target, source = self.target_of(edge), self.graph.task_of(edge.output.step)
        inbox = self._departures.get(edge)
        if inbox is None:
            router = self._router(target)
            workers = len(self.instances(source)) * workers_of(source, self.graph)
            inbox = self._departures[edge] = Inbox(router.room, self.context.control, producers=workers)
            name = f"{edge.output.step}.{edge.output.branch}>{target.name}"
            self._carry(name, source, inbox, self._outward(target, name, inbox))
        return Connection([inbox], self.context_of(worker).ledger, keyed=False, keeps_keys=True)

    def local_connection(self, edge: Edge, worker: str) -> Connection[Inbox]:
        """An event loop puts into an inbox, and a carrier into the queue."""
        target = self.target_of(edge)
        if target.name not in self._placement.queued:
            return super().local_connection(edge, worker)
        if target.name in self._placement.routed:
            return self._before_router(edge, worker)
        inbox = Inbox(target.capacity, self.context.control, producers=1)
        name = f"{worker}>{target.name}.{len(self._carriers)}"
        self._carry(name, self.graph.task_of(edge.output.step), inbox, self._outward(target, name))
        return Connection([inbox], self.context_of(worker).ledger, keyed=False, keeps_keys=True)

    def workers(self) -> Sequence[Worker]:
        return self._carriers

    def waiting(self, task: TaskPlan) -> int:
        fetched = sum(some[task.name].records for some in (self._shared, self._soles) if task.name in some)
        arrived = sum(inbox.records for (name, _), inbox in self._arrivals.items() if name == task.name)
        return super().waiting(task) + fetched + arrived

    def balance(self) -> dict[str, int]:
        """By task that is fed from a queue: records put by this host less those taken by it."""
        return {
            task: sum(outlet.records for outlet in self._outlets.get(task, ()))
            - sum(supply.records for supply in self._supplies.get(task, ()))
            for task in self._queues
        }

    def _ahead(self, task: TaskPlan) -> int:
        """How many records wait here for workers that are busy, where another host might have a free one."""
        return max(task.take, self.capacity(task) // 4)

    def _carry(self, name: str, task: TaskPlan, supply: Supply, target: Target, rhythm: Rhythm | None = None) -> None:
        """Bring everything from `supply` to `target`, for `task`, on a thread of its own."""
        context = self.context_of(name)
        if rhythm is None:
            body = inbox_body(target, supply, RECORDS_PER_BATCH, context.ledger)
        else:
            body = gathering_body(target, supply, RECORDS_PER_BATCH, context.ledger, rhythm)
        self._carriers.append(ThreadWorker(name, task.name, (), body, context.control, first=True))

    def _outward(self, target: TaskPlan, worker: str, hall: Inbox | None = None) -> Connection[Outlet]:
        context = self.context_of(worker)
        stats = StepStats(target.name)
        self.refused.append(stats)
        failures = Failures(self.graph.steps[target.name], context, stats)
        queues = self._queues[target.name]
        largest = largest_item(target.capacity, target.instances)
        behind = target.instances // len(queues)
        producers = producers_of(target, self.graph)
        common: dict[str, Any] = {
            "largest": largest, "instances": behind, "producers": producers, "reports": self._reports,
            "failures": failures, "control": context.control,
        }  # fmt: skip
        outlets: list[Outlet]
        if hall is not None:
            outlets = [RoutedOutlet(queues, worker, self._router(target), hall, **common)]
        else:
            outlets = [Outlet(queue, **common) for queue in queues]
        self._outlets.setdefault(target.name, []).extend(outlets)
        return self.way_to(target, outlets, context)

    def _router(self, task: TaskPlan) -> Router:
        found = self.routers.get(task.name)
        if found is None:
            assert self._scheduler is not None
            slots = {name_of(host): count for host, count in self._placement.slots(task).items()}
            least = self.graph.steps[task.name].batch_size or 1
            largest = largest_item(task.capacity, task.instances)
            found = self.routers[task.name] = Router(
                self._scheduler, slots, least=least, largest=largest, room=task.capacity, control=self.context.control
            )
        return found

    def done(self, host: int, task: str, records: int, took_s: float) -> None:
        """`host` has done so much of what a router here gave to it."""
        places = self._placement.slots(self.graph.task_of(task))
        busy = self.routers[task].done(list(places).index(host), records, took_s)
        if busy is not None and not self.context.control.aborted.is_set():
            move(self._queues[task], self.routers[task], busy)

    def has_ahead(self, task: str) -> bool:
        """Whether a host has more of it than it works at."""
        router = self.routers.get(task)
        return router is not None and router.has_ahead
