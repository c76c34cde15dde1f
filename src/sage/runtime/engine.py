"""What engines differ in: which hosts a run has, how one is started and watched, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.queues import Queue
from sage.runtime.messages import Link, Setup, Way
from sage.runtime.placement import Placement
from sage.scheduling import Scheduler


class Made(NamedTuple):
    """A queue that exists, as its description and as the handle of this process."""

    way: Way
    queue: Queue[Any]


class HostHandle(Protocol):
    """A host that the driver starts."""

    @property
    def link(self) -> Link: ...

    def start(self, setup: Setup) -> None:
        """Start it, and have it do as `setup` says. Raises OSError."""

    def wait(self) -> str:
        """Wait for its end, whatever it be; tell it in words, and end the link."""

    def kill(self) -> None:
        """End it at once, if it has not ended; from any thread."""

    @property
    def process(self) -> int | None:
        """Its process id, if it was started."""

    def processor_s(self) -> float | None:
        """Processor time that it has used; None where that cannot be told from here."""


class Engine(Protocol):
    """The hosts of one run. Used by one thread, in the order of its methods: those up to `clear` again for each attempt
    of the run, which lasts until a host is lost; `close` is due whatever happened."""

    sees_files: bool
    """Its hosts have the files of this machine."""
    scheduler: Scheduler
    """Says who gets what of the tasks that are routed."""

    def place(self, graph: ExecutionGraph) -> Placement:
        """Decide where everything runs, and prepare these hosts. Raises `SageError`, or `Aborted`."""

    def give_up(self) -> None:
        """From any thread: let `place`, which may wait for hosts to start, raise `Aborted` soon."""

    def queues(self, task: TaskPlan, producers: int, placement: Placement) -> Sequence[Made]:
        """Make what feeds a task with records of so many workers: one queue, one per instance if keyed, or one for each
        of its hosts if routed."""

    def host(self, number: int) -> HostHandle:
        """A host that something was placed on."""

    def clear(self, lost: Collection[int]) -> None:
        """The attempt is over, and these hosts were lost: end the others, and all queues. Safe to repeat."""

    def close(self) -> None:
        """Leave nothing behind. Safe to repeat."""
