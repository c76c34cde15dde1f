"""Placement: which host runs which instance of a task. A pure function of the graph and the number of hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sage.flow.graph import Edge, ExecutionGraph, TaskPlan

HOME = 0
"""The host that is the user's own process: sources, sinks, reductions, and steps whose calls overlap run there."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every instance runs, and which tasks get their records through queues."""

    hosts: Mapping[str, tuple[int, ...]]
    """By task: the host of each instance."""
    queued: frozenset[str]
    """Tasks whose producers and instances are not all in one host."""

    def at(self, host: int, task: TaskPlan) -> list[int]:
        """The instances of `task` that run on `host`."""
        return [instance for instance, place in enumerate(self.hosts[task.name]) if place == host]


def place(graph: ExecutionGraph, processes: int) -> Placement:
    """Movable tasks go to the hosts 1 to `processes`, each instance to the one with the fewest; all else stays at home.

    With one process, that is home.
    """
    load = dict.fromkeys(range(1, processes + 1) if processes > 1 else [HOME], 0)
    hosts: dict[str, tuple[int, ...]] = {}
    for task in graph.tasks:
        places = []
        for _ in range(task.instances):
            host = min(load, key=load.__getitem__) if task.movable else HOME
            places.append(host)
            if task.movable:
                load[host] += 1
        hosts[task.name] = tuple(places)
    queued = frozenset(task.name for task in graph.tasks if len(around(graph, task, hosts)) > 1)
    return Placement(hosts, queued)


def edges_into(graph: ExecutionGraph, task: TaskPlan) -> list[Edge]:
    """Where the records of `task` come from."""
    return [edge for edge in graph.edges if edge.target == task.name]


def around(graph: ExecutionGraph, task: TaskPlan, hosts: Mapping[str, tuple[int, ...]]) -> set[int]:
    """The hosts of a task and of its producers."""
    around = set(hosts[task.name])
    for edge in edges_into(graph, task):
        around |= set(hosts[graph.task_of(edge.output.step).name])
    return around
