"""The ExecutionGraph: a pipeline compiled into tasks and edges. Plain data; engines make it run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sage.flow.step import Input, Kind, OnError

RECORDS_PER_BATCH = 4096
"""The most records that a source puts into one batch, and a task takes from its inbox at once."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step with every option decided."""

    name: str
    kind: Kind
    operator: Any
    inputs: tuple[Input, ...]
    is_async: bool
    batch_size: int | None
    concurrency: int
    """Calls in flight; the most of them, if `adaptive`."""
    parallelism: int
    durable: bool
    retries: int
    timeout_s: float | None
    on_error: OnError
    resources: Mapping[str, float]
    adaptive: bool = False
    """How many calls are in flight is found while it runs."""
    movable: bool = False
    """It keeps a processor busy, so it may run in another process than the sources and sinks."""


class Mode(StrEnum):
    """What runs the calls of a task."""

    SOURCE = "source"
    """A thread that reads a source and pushes through the steps fused behind it."""
    INLINE = "inline"
    """A thread that takes from its inbox and pushes through its steps."""
    THREADS = "threads"
    """`concurrency` threads, for one sync step."""
    ASYNC = "async"
    """The host's event loop with up to `concurrency` calls in flight, for one async step."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A chain (or tree) of steps that run together, and how many instances of it there are."""

    name: str
    mode: Mode
    steps: tuple[str, ...]
    """In topological order; the first one is the head, which takes the task's input."""
    instances: int
    capacity: int
    """Records its inbox holds at most (per instance if keyed, else in all). 0 for a source."""
    take: int
    """Records taken from the inbox at once at most."""
    keyed: bool
    """Records with equal keys go to the same instance; otherwise the instances share one inbox."""
    ordered: bool
    """Records with equal keys leave in the order in which they came."""
    movable: bool = False
    """Its instances may run in other processes than the sources and sinks."""


@dataclass(frozen=True, slots=True)
class Edge:
    """From an output of a step in one task to the head of another task."""

    output: Input
    target: str


@dataclass(frozen=True, slots=True)
class ExecutionGraph:
    """What an engine runs. `tasks` are ordered from sources to sinks."""

    pipeline: str
    steps: Mapping[str, StepPlan]
    tasks: tuple[TaskPlan, ...]
    edges: tuple[Edge, ...]

    def task_of(self, step: str) -> TaskPlan:
        """The task in which `step` runs."""
        return next(task for task in self.tasks if step in task.steps)

    def source_chunk(self, task: TaskPlan) -> int:
        """How many records a source task may read at once, so that no inbox behind it holds more than it should."""
        targets = [t for e in self.edges if e.output.step in task.steps for t in self.tasks if t.name == e.target]
        return max(1, min([RECORDS_PER_BATCH, *(target.capacity // 2 for target in targets)]))

    def describe(self) -> str:
        """The graph in words, a line per task."""
        lines = []
        for task in self.tasks:
            targets = [edge.target for edge in self.edges if edge.output.step in task.steps]
            to = f" -> {', '.join(targets)}" if targets else ""
            lines.append(f"{task.name}: {' > '.join(task.steps)} [{task.mode} x{task.instances}]{to}")
        return "\n".join(lines)
