"""Which nodes can carry a task."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isinf

from sage.errors import SchedulingError
from sage.scheduling.scheduler import Decision, lowest
from sage.scheduling.view import Cluster, Node, Task


def misfit(task: Task, node: Node) -> str | None:
    """Why `node` cannot carry `task`; None if it can. Slots are no reason: a node may be given more than it has."""
    if not node.accepts:
        return "takes no tasks now"
    for label, value in task.labels.items():
        if node.labels.get(label) != value:
            return f"its {label} is not {value}"
    for resource, amount in task.needs.items():
        if node.free.get(resource, 0.0) < amount:
            return f"{node.free.get(resource, 0.0):g} of {amount:g} {resource} left"
    return None


def best_fit(task: Task, cluster: Cluster, score: Callable[[Node], float], reason: str) -> Decision[str]:
    """The node with the lowest score among those that can carry `task`. Raises E245 if there is none."""
    scores = [inf if misfit(task, node) else score(node) for node in cluster.nodes]
    if all(map(isinf, scores)):
        why = "; ".join(f"{node.name}: {misfit(task, node)}" for node in cluster.nodes[:5])
        raise SchedulingError(
            "E245", "no node can carry the task", at=task.name, got=why or "no nodes",
            try_="ask for less, or add a node that has it",
        )  # fmt: skip
    return Decision(cluster.nodes[lowest(scores)].name, scores, reason)


def slots_after(task: Task, node: Node) -> float:
    """The share of the node's slots that is taken when it carries `task` too."""
    return (node.used + task.slots) / node.slots
