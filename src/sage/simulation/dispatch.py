"""Who gets which record, in virtual time: the policies of `sage.scheduling` over snapshots, as the runtime would ask.

A cluster of more than `FLAT` nodes is divided into cells. The same scheduler chooses a cell, and in it a node: two
questions with some thirty candidates each in place of one with a thousand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, isqrt

from sage.scheduling import Group, Scheduler, Work
from sage.simulation.agenda import Agenda
from sage.simulation.task import Task

FLAT = 64


def cells_for(nodes: int) -> int:
    """How many cells a cluster of `nodes` is divided into: about the root, and all of one size if that is possible."""
    if nodes <= FLAT:
        return 1
    root = isqrt(nodes)
    return next((count for count in range(root, root // 2, -1) if nodes % count == 0), root)


class SimulatedDispatcher:
    """Records wait here, a line for each band and job, until the scheduler has a node for them.

    `give` sends a record to a node, after which the dispatcher knows of it what it is told: `done`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        slots: Sequence[int],
        agenda: Agenda,
        give: Callable[[Task], None],
        weights: dict[str, float],
    ) -> None:
        self.decisions = 0
        self._scheduler = scheduler
        self._agenda = agenda
        self._give = give
        self._weights = weights
        self._cell_count = cells_for(len(slots))
        members = [range(cell, len(slots), self._cell_count) for cell in range(self._cell_count)]
        self._slots = [[slots[i] for i in nodes] for nodes in members]
        self._each = max(slots)
        named = zip(members, self._slots, strict=True)
        self._cells = [Group([f"n{i}" for i in nodes], counts) for nodes, counts in named]
        self._top = Group([f"cell{cell}" for cell in range(self._cell_count)], [sum(each) for each in self._slots])
        self._lines: dict[tuple[int, str], deque[Task]] = {}
        self._waiting_weight = 0.0
        self._attained: dict[str, float] = {}
        self._asked = True

    @property
    def given(self) -> list[int]:
        """Records that were ever given to each node."""
        by_cell = [cell.given for cell in self._cells]
        count = sum(map(len, by_cell))
        return [by_cell[node % self._cell_count][node // self._cell_count] for node in range(count)]

    def arrive(self, task: Task) -> None:
        """It waits from now on."""
        key = (task.demand.band, task.job)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = deque()
        line.append(task)
        self._waiting_weight += task.demand.weight
        self._asked = False

    def done(self, task: Task, took_s: float) -> None:
        """A node says so."""
        cell, node = task.node % self._cell_count, task.node // self._cell_count
        self._cells[cell].take_back(node, task.demand.weight, took_s)
        if self._cell_count > 1:
            self._top.take_back(cell, task.demand.weight, took_s)
        self._asked = False

    def share(self, most: int) -> None:
        """No more than `most` records may be on their way: each node has its part of them at once, and no more than it
        has slots. Slots say what a node accepts and not what it can do, so the quickest one would be flooded."""
        each = ceil(most / sum(map(len, self._slots)))
        if each == self._each:
            return
        self._each = each
        cells = [[min(count, each) for count in slots] for slots in self._slots]
        for group, counts in zip((*self._cells, self._top), (*cells, [sum(slots) for slots in cells]), strict=True):
            group.views = [replace(view, slots=count) for view, count in zip(group.views, counts, strict=True)]

    def settle(self) -> None:
        """Give away what can be given, if anything has happened since the last time."""
        if self._asked:
            return
        self._asked = True
        while self._lines and self._give_one():
            pass

    def _give_one(self) -> bool:
        task, work = self._first()
        chosen = self._choose(task, work)
        if chosen is None:
            return False
        cell, node = chosen
        line = self._lines[task.demand.band, task.job]
        line.popleft()
        if not line:
            del self._lines[task.demand.band, task.job]
        self._waiting_weight -= task.demand.weight
        self._attained[task.job] = self._attained.get(task.job, 0.0) + work.cost_s / self._weights[task.job]
        self._cells[cell].give(node, task.demand.weight)
        if self._cell_count > 1:
            self._top.give(cell, task.demand.weight)
        task.node = node * self._cell_count + cell
        task.queueing_s += self._agenda.now - task.since_s
        task.since_s = self._agenda.now
        self._give(task)
        return True

    def _first(self) -> tuple[Task, Work]:
        heads = [line[0] for line in self._lines.values()]
        if len(heads) == 1:
            return heads[0], self._work(heads[0])
        heads.sort(key=_arrival_s)
        works = [self._work(task) for task in heads]
        first = self._scheduler.order(works).choice
        return heads[first], works[first]

    def _work(self, task: Task) -> Work:
        cost_s = self._learned.cost_s(task.demand.weight)
        waited_s = self._agenda.now - task.intended_s
        return Work(cost_s, waited_s, task.demand.band, task.job, self._attained.get(task.job, 0.0))

    @property
    def _learned(self) -> Group:
        return self._top if self._cell_count > 1 else self._cells[0]

    def _choose(self, task: Task, work: Work) -> tuple[int, int] | None:
        waiting_s = self._learned.cost_s(self._waiting_weight)
        cell: int | None = 0
        if self._cell_count > 1:
            self.decisions += 1
            cell = self._scheduler.choose(work, self._top.views, waiting_s).choice
            if cell is None:
                return None
            waiting_s /= self._cell_count
        assert cell is not None
        self.decisions += 1
        node = self._scheduler.choose(work, self._cells[cell].views, waiting_s).choice
        return None if node is None else (cell, node)


def _arrival_s(task: Task) -> float:
    """While it waits here, this is when it came."""
    return task.since_s
