"""From an ExecutionGraph to the workers of one host: the tasks from sinks to sources, and the wires between.

What differs between a host that is alone and one of several is in the `Wiring`; `crossing.py` has the second kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.flow.graph import Edge, ExecutionGraph, Mode, StepPlan, TaskPlan
from sage.flow.operator import OperatorContext
from sage.flow.shipping import clone
from sage.flow.step import Kind
from sage.runtime.calls import BatchMapStage, FilterStage, MapStage
from sage.runtime.context import RuntimeContext
from sage.runtime.flattening import FlatMapStage
from sage.runtime.fusion import fused_runs
from sage.runtime.host import Host, Worker
from sage.runtime.inbox import Inbox, Supply
from sage.runtime.keys import KeyStage, ReduceStage
from sage.runtime.load import BufferLoad, fullest
from sage.runtime.placement import edges_into
from sage.runtime.reading import SourceStage
from sage.runtime.replicas import Replicas
from sage.runtime.routes import RouteStage, UnionStage
from sage.runtime.routing import Connection, E, EventLoopConnection
from sage.runtime.stage import SharedOperator, Stage, Target
from sage.runtime.stats import StepStats
from sage.runtime.terminals import CollectStage, SinkStage
from sage.runtime.worker import (
    Arrivals,
    HeldOutput,
    OrderedTurns,
    ThreadWorker,
    inbox_body,
    replica_body,
    source_body,
)

if TYPE_CHECKING:
    from sage.runtime.asynchronous import AsyncStage


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of a run, ready to be started."""

    workers: Sequence[Worker]
    """From sinks to sources."""
    stages: Mapping[str, Sequence[Stage]]
    """By step."""


class Wiring:
    """Where the workers of a host take their records from, and where they put them. This host is alone."""

    def __init__(self, graph: ExecutionGraph, context: RuntimeContext) -> None:
        self.graph = graph
        self.context = context
        self._inboxes: dict[str, list[Inbox]] = {}
        self._ways: dict[str, list[Connection[Any]]] = {}

    def instances(self, task: TaskPlan) -> Sequence[int]:
        """Those of `task` that run here."""
        return range(task.instances)

    def capacity(self, task: TaskPlan) -> int:
        """How many records wait here for the instances of `task`, or for each if keyed."""
        return task.capacity

    def context_of(self, worker: str) -> RuntimeContext:
        """What a worker shares with others."""
        return self.context

    def made(self, worker: str, stats: Sequence[StepStats]) -> None:
        """The worker's stages have these figures."""

    def inbox(self, task: TaskPlan, instance: int) -> Inbox:
        """The inbox of an instance, from which several workers may take."""
        return self.inboxes(task)[instance if task.keyed else 0]

    def supply(self, task: TaskPlan, instance: int, worker: str) -> Supply:
        """Where a worker of an instance takes its records from."""
        return self.inbox(task, instance)

    def async_stage(
        self, plan: StepPlan, context: RuntimeContext, shared: SharedOperator, inbox: Inbox, *, ordered: bool
    ) -> AsyncStage:
        """That of an instance of an async step."""
        from sage.runtime.asynchronous import AsyncStage  # as below

        return AsyncStage(plan, context, shared, inbox, ordered=ordered)

    def connection(self, edge: Edge, worker: str) -> Target:
        """From a worker that may wait to a task."""
        return self.local_connection(edge, worker)

    def local_connection(self, edge: Edge, worker: str) -> Connection[Inbox]:
        """From a worker that must not wait to a task, or to what brings its records there."""
        target = self.target_of(edge)
        context = self.context_of(worker)
        return self.way_to(target, self.inboxes(target), context)

    def way_to(self, target: TaskPlan, entries: Sequence[E], context: RuntimeContext) -> Connection[E]:
        """A connection that `loads` knows of."""
        keeps_keys = self.keeps_keys(target)
        way = Connection(entries, context.ledger, keyed=target.keyed, keeps_keys=keeps_keys)
        self._ways.setdefault(target.name, []).append(way)
        return way

    def loads(self) -> dict[str, BufferLoad]:
        """By task that is fed from here: that of the way to it that is fullest."""
        return {task: fullest(way.get_buffer_load() for way in ways) for task, ways in self._ways.items()}

    def workers(self) -> Sequence[Worker]:
        """Those that only carry records between inboxes and other hosts."""
        return ()

    def waiting(self, task: TaskPlan) -> int:
        """Records that wait in front of a task."""
        return sum(inbox.records for inbox in self._inboxes.get(task.name, ()))

    def inboxes(self, task: TaskPlan) -> list[Inbox]:
        """One, or one per instance if keyed; made when first asked for."""
        found = self._inboxes.get(task.name)
        if found is None:
            producers = 0
            for edge in edges_into(self.graph, task):
                source = self.graph.task_of(edge.output.step)
                producers += len(self.instances(source)) * workers_of(source, self.graph)
            count = task.instances if task.keyed else 1
            found = [Inbox(self.capacity(task), self.context.control, producers) for _ in range(count)]
            self._inboxes[task.name] = found
        return found

    def target_of(self, edge: Edge) -> TaskPlan:
        return next(task for task in self.graph.tasks if task.name == edge.target)

    def keeps_keys(self, target: TaskPlan) -> bool:
        return target.ordered or self.graph.steps[target.name].kind is Kind.REDUCE


def assemble(wiring: Wiring, host: Host) -> Assembly:
    """Make every part of the run that is in this host. Nothing is started, no operator, source or sink is opened."""
    return _Assembler(wiring, host).assemble()


def workers_of(task: TaskPlan, graph: ExecutionGraph) -> int:
    """Threads per instance of a task (an async task has one worker, the event loop)."""
    return graph.steps[task.steps[0]].concurrency if task.mode is Mode.THREADS else 1


def producers_of(task: TaskPlan, graph: ExecutionGraph) -> int:
    """How many workers put into what feeds a task, on all hosts."""
    sources = [graph.task_of(edge.output.step) for edge in edges_into(graph, task)]
    return sum(source.instances * workers_of(source, graph) for source in sources)


class _Assembler:
    def __init__(self, wiring: Wiring, host: Host) -> None:
        self._wiring = wiring
        self._graph = wiring.graph
        self._host = host
        self._stages: dict[str, list[Stage]] = {name: [] for name in wiring.graph.steps}

    def assemble(self) -> Assembly:
        workers: list[Worker] = []
        for task in reversed(self._graph.tasks):
            for instance in self._wiring.instances(task):
                workers += self._make_workers(task, instance)
        return Assembly([*workers, *self._wiring.workers()], self._stages)

    def _make_workers(self, task: TaskPlan, instance: int) -> list[Worker]:
        count = workers_of(task, self._graph)
        if task.mode is Mode.THREADS and self._graph.steps[task.name].adaptive:
            return self._make_replicas(task, instance, count)
        shared = {step: self._share(self._graph.steps[step], instance, count) for step in task.steps}
        if task.mode is Mode.ASYNC:
            return [self._make_async(task, instance, shared[task.name])]
        turns = None
        if task.mode is Mode.THREADS and task.ordered:
            turns = self._turns(task, instance)
        return [self._make_thread(task, instance, number, shared, turns) for number in range(count)]

    def _make_replicas(self, task: TaskPlan, instance: int, count: int) -> list[Worker]:
        """A thread for each replica that there may be, each with its own copy of the operator."""
        context = self._wiring.context
        replicas = Replicas(count, context.control, context.clock)
        turns = self._turns(task, instance) if task.ordered else None
        plan = self._graph.steps[task.name]
        return [
            self._make_thread(
                task, instance, number, {task.name: self._share(plan, number, 1)}, turns, replicas=replicas
            )
            for number in range(count)
        ]

    def _turns(self, task: TaskPlan, instance: int) -> OrderedTurns:
        return OrderedTurns(self._wiring.inbox(task, instance), task.take, full=task.take > 1)

    def _share(self, plan: StepPlan, instance: int, workers: int) -> SharedOperator:
        calls = plan.kind in (Kind.MAP, Kind.FLAT_MAP, Kind.FILTER, Kind.KEY_BY, Kind.ORDER_BY)
        context = OperatorContext(
            self._graph.pipeline, plan.name, instance, plan.parallelism, self._wiring.context.run_id
        )
        return SharedOperator(clone(plan.operator) if calls else plan.operator, context, workers)

    def _make_thread(
        self,
        task: TaskPlan,
        instance: int,
        number: int,
        shared: Mapping[str, SharedOperator],
        turns: OrderedTurns | None,
        *,
        replicas: Replicas | None = None,
    ) -> ThreadWorker:
        name = _worker_name(task, instance, number)
        context = self._wiring.context_of(name)
        stages = {step: self._make_stage(task, self._graph.steps[step], context, shared[step]) for step in task.steps}
        held: list[HeldOutput] = []
        for stage in stages.values():
            self._connect(name, stage, stages, held if turns is not None else None)
        for step, stage in stages.items():
            self._stages[step].append(stage)
        self._wiring.made(name, [stage.stats for stage in stages.values()])
        first = stages[task.name]
        first.leads()
        head: Target = first
        ordered = task.ordered or any(self._graph.steps[step].kind is Kind.ORDER_BY for step in task.steps)
        if not ordered:  # a record that fails in a fused run leaves it before its neighbours
            for run in fused_runs(list(stages.values())):
                head = run.stand_in(list(stages.values()), head)
        head = Arrivals(head, first.stats, context.clock)
        replica = replicas.replica(number, list(stages.values())) if replicas is not None else None
        if isinstance(first, SourceStage):
            body = source_body(first)
        elif turns is not None:
            body = turns.body(head, held, context.ledger, replica)
        else:
            supply = self._wiring.supply(task, instance, name)
            full = self._graph.steps[task.name].batch_size is not None
            body = (
                inbox_body(head, supply, task.take, context.ledger, full=full)
                if replica is None
                else replica_body(head, supply, task.take, context.ledger, replica, full=full)
            )
        opens = replica is None or number == 0
        return ThreadWorker(
            name, task.name, list(stages.values()), body, context.control, first=number == 0, opens=opens
        )

    def _make_stage(self, task: TaskPlan, plan: StepPlan, context: RuntimeContext, shared: SharedOperator) -> Stage:
        match plan.kind:
            case Kind.READ:
                return SourceStage(plan, context, self._graph.source_chunk(task))
            case Kind.MAP if plan.batch_size is not None:
                return BatchMapStage(plan, context, shared)
            case Kind.MAP:
                return MapStage(plan, context, shared)
            case Kind.FLAT_MAP:
                return FlatMapStage(plan, context, shared)
            case Kind.FILTER:
                return FilterStage(plan, context, shared)
            case Kind.KEY_BY | Kind.ORDER_BY:
                return KeyStage(plan, context, shared)
            case Kind.REDUCE:
                return ReduceStage(plan, context, shared.instance)
            case Kind.ROUTE:
                return RouteStage(plan, context, shared)
            case Kind.UNION:
                return UnionStage(plan, context)
            case Kind.WRITE:
                return SinkStage(plan, context)
            case Kind.COLLECT:
                return CollectStage(plan, context)

    def _connect(self, worker: str, stage: Stage, stages: Mapping[str, Stage], held: list[HeldOutput] | None) -> None:
        for plan in self._graph.steps.values():
            if plan.name in stages:
                for output in plan.inputs:
                    if output.step == stage.plan.name:
                        stage.connect(output.branch, stages[plan.name])
        for edge in self._graph.edges:
            if edge.output.step == stage.plan.name:
                connection = self._wiring.connection(edge, worker)
                if held is None:
                    stage.connect(edge.output.branch, connection)
                else:
                    held.append(HeldOutput(connection))
                    stage.connect(edge.output.branch, held[-1])

    def _make_async(self, task: TaskPlan, instance: int, shared: SharedOperator) -> Worker:
        from sage.runtime.async_worker import AsyncWorker  # asyncio takes 40 ms to import

        plan = self._graph.steps[task.name]
        name = _worker_name(task, instance, 0)
        context = self._wiring.context_of(name)
        inbox = self._wiring.inbox(task, instance)
        stage = self._wiring.async_stage(plan, context, shared, inbox, ordered=task.ordered)
        for edge in self._graph.edges:
            if edge.output.step == task.name:
                connection = self._wiring.local_connection(edge, name)
                stage.connect(edge.output.branch, EventLoopConnection(connection, stage.wake))
        self._stages[task.name].append(stage)
        self._wiring.made(name, [stage.stats])
        return AsyncWorker(name, stage, self._host.event_loop(), context.control)


def _worker_name(task: TaskPlan, instance: int, number: int) -> str:
    return f"{task.name}/{instance}" + (f".{number}" if task.mode is Mode.THREADS else "")
