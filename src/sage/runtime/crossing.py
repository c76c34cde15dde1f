"""The wiring of a host that is one of several: tasks that are fed from elsewhere take from queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage.flow.graph import RECORDS_PER_BATCH, Edge, ExecutionGraph, TaskPlan
from sage.queues import Queue
from sage.runtime.assembly import Wiring, producers_of
from sage.runtime.context import RuntimeContext
from sage.runtime.edges import Item, Outlet, QueueInbox, far_ticket, largest_item
from sage.runtime.failures import Failures
from sage.runtime.host import Worker
from sage.runtime.inbox import Inbox, Supply
from sage.runtime.ledger import Book
from sage.runtime.placement import Placement
from sage.runtime.reports import LettersOnTheWay, Reports, WorkerLedger
from sage.runtime.routing import Connection
from sage.runtime.stage import Target
from sage.runtime.stats import StepStats
from sage.runtime.worker import ThreadWorker, inbox_body


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
    ) -> None:
        super().__init__(graph, context)
        self._number = number
        self._placement = placement
        self._queues = queues
        self._reports = reports
        self._book = book
        self._contexts: dict[str, RuntimeContext] = {}
        self._ledgers: dict[str, WorkerLedger] = {}
        self._carriers: list[Worker] = []
        self._arrivals: dict[tuple[str, int], Inbox] = {}
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
        supply = QueueInbox(
            self._queues[task.name][instance if task.keyed else 0],
            step=task.name,
            reports=self._reports,
            ticket_of=far_ticket if self._book is None else self._book.ticket,
            control=self.context.control,
        )
        self._supplies.setdefault(task.name, []).append(supply)
        return supply

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
            self._carry(name, task, self.supply(task, instance, name), connection)
        return inbox

    def connection(self, edge: Edge, worker: str) -> Target:
        target = self.target_of(edge)
        if target.name not in self._placement.queued:
            return super().connection(edge, worker)
        return self._outward(target, worker)

    def local_connection(self, edge: Edge, worker: str) -> Connection[Inbox]:
        """An event loop puts into an inbox, and a carrier into the queue."""
        target = self.target_of(edge)
        if target.name not in self._placement.queued:
            return super().local_connection(edge, worker)
        inbox = Inbox(target.capacity, self.context.control, producers=1)
        name = f"{worker}>{target.name}.{len(self._carriers)}"
        self._carry(name, self.graph.task_of(edge.output.step), inbox, self._outward(target, name))
        return Connection([inbox], self.context_of(worker).ledger, keyed=False, keeps_keys=True)

    def workers(self) -> Sequence[Worker]:
        return self._carriers

    def waiting(self, task: TaskPlan) -> int:
        return super().waiting(task) + sum(
            inbox.records for (name, _), inbox in self._arrivals.items() if name == task.name
        )

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

    def _carry(self, name: str, task: TaskPlan, supply: Supply, target: Target) -> None:
        """Bring everything from `supply` to `target`, for `task`, on a thread of its own."""
        context = self.context_of(name)
        body = inbox_body(target, supply, RECORDS_PER_BATCH, context.ledger)
        self._carriers.append(ThreadWorker(name, task.name, (), body, context.control, first=True))

    def _outward(self, target: TaskPlan, worker: str) -> Connection[Outlet]:
        context = self.context_of(worker)
        stats = StepStats(target.name)
        self.refused.append(stats)
        failures = Failures(self.graph.steps[target.name], context, stats)
        queues = self._queues[target.name]
        largest = largest_item(target.capacity, target.instances)
        behind = target.instances // len(queues)
        producers = producers_of(target, self.graph)
        outlets = [
            Outlet(
                queue,
                largest=largest,
                instances=behind,
                producers=producers,
                reports=self._reports,
                failures=failures,
                control=context.control,
            )
            for queue in queues
        ]
        self._outlets.setdefault(target.name, []).extend(outlets)
        return self.way_to(target, outlets, context)
