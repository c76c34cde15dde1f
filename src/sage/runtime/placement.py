"""Placement: which host runs which instance of a task. A pure function of the graph and the number of hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sage.flow.graph import Edge, ExecutionGraph, Mode, TaskPlan

Each = TypeVar("Each")
HOME = 0
"""The host that is the user's own process: sources, sinks, reductions, and steps whose calls overlap run there."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Why one instance is where it is."""

    task: str
    instance: int
    where: str
    """The host, the node it is on, and how records get there."""
    reason: str
    scores: tuple[tuple[str, float | None], ...]
    """Of each candidate: the lowest won; None: it could not have been."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every instance runs, and which tasks get their records through queues."""

    hosts: Mapping[str, tuple[int, ...]]
    """By task: the host of each instance."""
    queued: frozenset[str]
    """Tasks whose producers and instances are not all in one host."""
    routed: Mapping[str, int] = field(default_factory=dict)
    """Those of them whose hosts each have a queue of their own, where a router at home chooses, as the scheduler says;
    and how many calls an instance runs at once."""
    why: tuple[Placed, ...] = ()
    """Of the instances that are not at home."""

    @property
    def count(self) -> int:
        """How many hosts something was placed on."""
        return len({host for some in self.hosts.values() for host in some})

    def at(self, host: int, task: TaskPlan) -> list[int]:
        """The instances of `task` that run on `host`."""
        return [instance for instance, place in enumerate(self.hosts[task.name]) if place == host]

    def slots(self, task: TaskPlan) -> dict[int, int]:
        """By host that `task` runs on: how many calls it runs there. If it is routed, its queues are in this order."""
        each = self.routed.get(task.name, 1)
        return {host: count * each for host, count in sorted(Counter(self.hosts[task.name]).items())}

    def routes(self, task: TaskPlan) -> Sequence[int]:
        """The calls on each host, of a task that is routed."""
        return list(self.slots(task).values()) if task.name in self.routed else ()


def place(graph: ExecutionGraph, processes: int) -> Placement:
    """Movable tasks go to the hosts 1 to `processes`, each instance to the one with the fewest; all else stays at home.

    With one process, that is home.
    """
    load = dict.fromkeys(range(1, processes + 1) if processes > 1 else [HOME], 0)
    hosts: dict[str, tuple[int, ...]] = {}
    why: list[Placed] = []
    for task in graph.tasks:
        places = []
        for instance in range(task.instances):
            host = min(load, key=load.__getitem__) if task.movable else HOME
            places.append(host)
            if task.movable:
                scores = tuple((f"host {number}", float(count)) for number, count in load.items())
                why.append(Placed(task.name, instance, f"host {host}", "the process with the fewest", scores))
                load[host] += 1
        hosts[task.name] = tuple(places)
    queued = frozenset(task.name for task in graph.tasks if len(around(graph, task, hosts)) > 1)
    return Placement(hosts, queued, why=tuple(why))


def with_routes(graph: ExecutionGraph, placement: Placement) -> Placement:
    """`placement`, where a router chooses for each piece of work of the tasks of which that can be done at home.

    Not of those whose instances are bound by keys or an order, nor of those that find out how many calls they run.
    """
    hosts, queued = placement.hosts, placement.queued
    routed = {
        task.name: graph.steps[task.name].concurrency if task.mode is Mode.THREADS else 1
        for task in graph.tasks
        if task.name in queued
        and len(set(hosts[task.name])) > 1
        and (task.mode is Mode.INLINE or (task.mode is Mode.THREADS and not graph.steps[task.name].adaptive))
        and not (task.keyed or task.ordered)
        and HOME not in hosts[task.name]
        and all(set(hosts[graph.task_of(edge.output.step).name]) == {HOME} for edge in edges_into(graph, task))
    }
    return replace(placement, routed=routed)


def queues_at(
    host: int, graph: ExecutionGraph, task: TaskPlan, placement: Placement, queues: Sequence[Each]
) -> Sequence[Each]:
    """Those of a task's queues that `host`, which is not at home, puts into or takes from: each is a connection."""
    if task.name in placement.routed:
        places = list(placement.slots(task))
        return [queues[places.index(host)]] if host in places else []
    return queues if host in around(graph, task, placement.hosts) else []


def edges_into(graph: ExecutionGraph, task: TaskPlan) -> list[Edge]:
    """Where the records of `task` come from."""
    return [edge for edge in graph.edges if edge.target == task.name]


def around(graph: ExecutionGraph, task: TaskPlan, hosts: Mapping[str, tuple[int, ...]]) -> set[int]:
    """The hosts of a task and of its producers."""
    around = set(hosts[task.name])
    for edge in edges_into(graph, task):
        around |= set(hosts[graph.task_of(edge.output.step).name])
    return around


def producers_on(graph: ExecutionGraph, task: TaskPlan, placement: Placement) -> set[tuple[str, int]]:
    """The tasks that `task` gets its records from, and the hosts on which they run."""
    sources = {graph.task_of(edge.output.step).name for edge in edges_into(graph, task)}
    return {(source, host) for source in sources for host in placement.hosts[source]}


def tasks_away(graph: ExecutionGraph, placement: Placement) -> dict[int, list[str]]:
    """The hosts that something is placed on, but for this one, and the tasks of each."""
    tasks: dict[int, list[str]] = {}
    for task in graph.tasks:
        for host in sorted(set(placement.hosts[task.name]) - {HOME}):
            tasks.setdefault(host, []).append(task.name)
    return tasks
