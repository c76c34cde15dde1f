"""A node in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from sage.simulation.agenda import Agenda
from sage.simulation.cluster import NodeModel
from sage.simulation.task import Task


class SimulatedNode:
    """Slots, cores and what waits for them; `call` asks an endpoint, `ended` is told when a record is done."""

    def __init__(
        self, model: NodeModel, agenda: Agenda, call: Callable[[Task], None], ended: Callable[[Task], None]
    ) -> None:
        self.busy_s = 0.0
        """Seconds of cores."""
        self._model = model
        self._agenda = agenda
        self._call = call
        self._ended = ended
        self._taken = 0
        self._computing = 0
        self._cores = inf if model.cores is None else model.cores
        self._arrived: deque[Task] = deque()
        self._for_core: deque[Task] = deque()

    def receive(self, task: Task) -> None:
        """It has come over the network."""
        task.scheduling_s += self._agenda.now - task.since_s
        task.since_s = self._agenda.now
        self._arrived.append(task)
        self._fill()

    def called(self, task: Task) -> None:
        """An endpoint has answered it."""
        self._next_phase(task)

    def _fill(self) -> None:
        now = self._agenda.now
        while self._arrived and self._taken < self._model.slots:
            task = self._arrived.popleft()
            self._taken += 1
            task.queueing_s += now - task.since_s
            task.placed_s = task.since_s = now
            self._compute(task)

    def _compute(self, task: Task) -> None:
        if self._computing >= self._cores:
            self._for_core.append(task)
            return
        now = self._agenda.now
        task.queueing_s += now - task.since_s
        task.since_s = now
        self._computing += 1
        took_s = task.demand.phases[task.phase].compute_s / self._model.speed
        self.busy_s += took_s
        self._agenda.at(now + took_s, self._computed, task)

    def _computed(self, task: Task) -> None:
        now = self._agenda.now
        task.execution_s += now - task.since_s
        task.since_s = now
        self._computing -= 1
        if self._for_core:
            self._compute(self._for_core.popleft())
        if task.demand.phases[task.phase].output_tokens:
            self._call(task)
        else:
            self._next_phase(task)

    def _next_phase(self, task: Task) -> None:
        task.phase += 1
        if task.phase < len(task.demand.phases):
            self._compute(task)
            return
        self._taken -= 1
        self._fill()
        self._ended(task)
