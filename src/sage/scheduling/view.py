"""What a scheduler sees. Snapshots, gathered by the hosts' heartbeats; a scheduler never asks for more.

Work is measured in *reference seconds*: how long it would take one slot of a node of speed 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Node:
    """A machine, or a part of one."""

    name: str
    slots: int
    """Tasks that it can run at once without one slowing another down."""
    used: float = 0.0
    """Slots taken by tasks that were placed there; may exceed `slots`."""
    backlog_s: float = 0.0
    """Work that waits there or runs, in reference seconds."""
    speed: float = 1.0
    """Measured; 2.0 takes half the time."""
    free: Mapping[str, float] = field(default_factory=dict)
    """What is left of named resources: memory_bytes, gpu, and those of the user's own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    accepts: bool = True
    """False while it is drained, or when it has not been heard of."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """All nodes, in an order that does not change from one view to the next."""

    nodes: tuple[Node, ...]
    placed: int = 0
    """Tasks placed so far, ever."""


@dataclass(frozen=True, slots=True)
class Task:
    """One instance of a task that needs a node."""

    name: str
    slots: float = 1.0
    needs: Mapping[str, float] = field(default_factory=dict)
    """Amounts of named resources."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node must have."""
    near: tuple[str, ...] = ()
    """Nodes of the tasks it exchanges records with."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One of the instances of a task that could take a piece of work."""

    node: str
    slots: int
    """Calls that it runs at once."""
    running: int = 0
    """Pieces of work in its slots."""
    queued: int = 0
    """Pieces that were given to it and wait for a slot."""
    backlog_s: float = 0.0
    """What is left of both, in reference seconds."""
    speed: float = 1.0
    given: int = 0
    """Pieces ever given to it."""

    @property
    def is_free(self) -> bool:
        """Whether a piece of work would start at once."""
        return self.running + self.queued < self.slots

    @property
    def load(self) -> float:
        """Pieces for each slot."""
        return (self.running + self.queued) / self.slots


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work that waits: a batch, or one call."""

    cost_s: float = 0.0
    """Estimate, in reference seconds."""
    waited_s: float = 0.0
    band: int = 0
    """0 goes first."""
    job: str = ""
    attained_s: float = 0.0
    """What its job has had so far, in reference seconds divided by the job's weight."""
