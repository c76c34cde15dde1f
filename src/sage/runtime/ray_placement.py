"""Placement on a cluster: how many hosts a node gets, and which host runs which instance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isinf

from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.runtime.placement import HOME, Placed, Placement, around, edges_into
from sage.scheduling import Cluster, Node, Scheduler, Task

MOST_HOSTS = 128
"""Hosts of a run at most. Each is a process, of 60 MB and more."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A place for a host."""

    number: int
    node: str


def seats_on(nodes: Sequence[Node], hosts: int | None) -> list[Seat]:
    """Places for `hosts` hosts, evenly by slots; None: one for each slot, where these are not too many."""
    count = min(MOST_HOSTS, sum(node.slots for node in nodes)) if hosts is None else hosts
    given = Counter[str]()
    seats = []
    for number in range(1, count + 1):
        node = min(nodes, key=lambda node: (given[node.name] + 1) / node.slots)
        given[node.name] += 1
        seats.append(Seat(number, node.name))
    return seats


def place_on(graph: ExecutionGraph, nodes: Sequence[Node], seats: Sequence[Seat], scheduler: Scheduler) -> Placement:
    """Put every movable task on `seats`, from sinks to sources: `scheduler` chooses the node of each instance.

    On the node it goes to the host that has the fewest of its kind. Raises `SchedulingError` if no node can carry it.
    """
    return _Plan(graph, nodes, seats, scheduler).made()


def demands_of(graph: ExecutionGraph, task: TaskPlan) -> dict[str, float]:
    """What one instance of `task` asks for, by name of the resource."""
    demands = Counter[str]()
    for step in task.steps:
        for name, amount in graph.steps[step].resources.items():
            demands[name] += amount  # type: ignore[assignment]
    return dict(demands)


def demands_on(graph: ExecutionGraph, placement: Placement) -> dict[int, Counter[str]]:
    """By host that something was placed on: what its instances ask for."""
    demands: dict[int, Counter[str]] = {}
    for task in graph.tasks:
        for host in placement.hosts[task.name]:
            if host != HOME:
                demands.setdefault(host, Counter()).update(demands_of(graph, task))
    return demands


class _Plan:
    def __init__(
        self, graph: ExecutionGraph, nodes: Sequence[Node], seats: Sequence[Seat], scheduler: Scheduler
    ) -> None:
        self._graph = graph
        self._seats = seats
        self._scheduler = scheduler
        used = Counter(seat.node for seat in seats)
        self._nodes = {node.name: replace(node, slots=used[node.name]) for node in nodes if used[node.name]}
        self._hosts: dict[str, tuple[int, ...]] = {}
        self._load = Counter[int]()
        self._placed = 0
        self._why: list[Placed] = []

    def made(self) -> Placement:
        for task in reversed(self._graph.tasks):
            self._hosts[task.name] = self._of(task) if task.movable else (HOME,) * task.instances
        queued = {task.name for task in self._graph.tasks if self._crosses(task)}
        return Placement(self._hosts, frozenset(queued), why=tuple(self._why))

    def _of(self, task: TaskPlan) -> tuple[int, ...]:
        needs = demands_of(self._graph, task)
        wanted = Task(task.name, slots=needs.pop("cpu", 1.0) or 1.0, needs=needs, near=self._near(task))
        own = Counter[int]()
        hosts = []
        for instance in range(task.instances):
            decision = self._scheduler.place(wanted, Cluster(tuple(self._nodes.values()), self._placed))
            name = decision.choice
            scores = zip(self._nodes, (None if isinf(each) else each for each in decision.scores), strict=True)
            self._take(name, wanted)
            there = [seat.number for seat in self._seats if seat.node == name]
            host = min(there, key=lambda number: (own[number], self._load[number]))
            own[host] += 1
            self._load[host] += 1
            hosts.append(host)
            self._why.append(Placed(task.name, instance, f"host {host} on {name}", decision.reason, tuple(scores)))
        return tuple(hosts)

    def _take(self, name: str, task: Task) -> None:
        node = self._nodes[name]
        free = {resource: amount - task.needs.get(resource, 0.0) for resource, amount in node.free.items()}
        self._nodes[name] = replace(node, used=node.used + task.slots, free=free)
        self._placed += 1

    def _near(self, task: TaskPlan) -> tuple[str, ...]:
        """The nodes of the tasks that get the records of this one."""
        targets = {edge.target for edge in self._graph.edges if edge.output.step in task.steps}
        hosts = {host for target in targets for host in self._hosts[target]}
        return tuple({seat.node: None for seat in self._seats if seat.number in hosts})

    def _crosses(self, task: TaskPlan) -> bool:
        """Whether its records come through queues.

        They do not where each host that has a producer has an instance too: records stay in their host then, and the
        choice who works on what was made where they came in.
        """
        hosts = set(self._hosts[task.name])
        sources = {self._graph.task_of(edge.output.step).name for edge in edges_into(self._graph, task)}
        if not task.keyed and all(set(self._hosts[source]) == hosts for source in sources):
            return False
        return len(around(self._graph, task, self._hosts)) > 1


def resources_of(nodes: Mapping[str, float]) -> dict[str, float]:
    """What a node of Ray has, beside its processors, under the names that steps use."""
    names = {"GPU": "gpu", "memory": "memory_bytes"}
    return {names.get(name, name): amount for name, amount in nodes.items() if name != "CPU"}
