"""The router of an edge between hosts: which host of a task gets the next records, as the run's scheduler decides.

It stands where the producers are, and learns what became of each piece from the reports of the hosts. Work stays here
until the scheduler has somebody for it. What was given ahead to one that then takes long is offered to the others anew
as soon as one of them has nothing to do: a late binding that was wrong is undone.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage.runtime.control import Control
from sage.runtime.load import Routed, RouteSnapshot
from sage.scheduling import Group, Replica, Scheduler, Work
from sage.scheduling.adaptive import AHEAD_S

PIECE_S = 0.025
"""Work of a piece for all slots of a host, where records are quick: each decision, and each item, has its price."""
WAITING_S = 0.2
"""So much work of all hosts waits before the router."""
AHEAD = 4
"""Pieces that a host may have at least beside those at work, whatever the scheduler says: memory has an end."""
NEWEST = 0.2
"""How much the newest pause between two batches of a producer counts."""


@dataclass(slots=True, eq=False)
class Line:
    """One producer, and what it has in its hand."""

    step: str
    records: int = 0
    since_s: float = 0.0
    left_s: float = 0.0
    per_s: float = 0.0
    """Records that it brings a second, where it need not wait here."""

    def comes(self, records: int, now_s: float) -> None:
        """With so many records."""
        self.records, self.since_s = records, now_s
        if self.left_s:
            found = records / max(1e-6, now_s - self.left_s)
            self.per_s += NEWEST * (found - self.per_s) if self.per_s else found


class Router:
    """For all producers of a process. `assign` waits; everything else does not."""

    def __init__(
        self, scheduler: Scheduler, slots: Mapping[str, int], *, least: int, largest: int, room: int, control: Control
    ) -> None:
        """`slots`, by host: the calls it runs at once. Pieces have `least` to `largest` records, where there are so
        many, and `room` may wait at most."""
        self._scheduler = scheduler
        self._group = Group(list(slots), list(slots.values()))
        self._most = [most_of(count) for count in slots.values()]
        self.slots = sum(slots.values())
        """Of all hosts."""
        self._each = self.slots / len(slots)
        self._given: list[deque[int]] = [
            deque() for _ in slots
        ]  # records of the pieces that each has, the oldest first
        self.room = 2 * self.slots * least
        """Records that should wait here at most."""
        self._least_room, self._most_room = self.room, max(self.room, room)
        self._least = least
        self._largest = largest
        self._control = control
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._attained: dict[str, float] = {}
        self._scores: Sequence[float] = ()
        self._reason = ""
        control.on_abort(self._wake)

    @property
    def fill(self) -> float:
        """The part of what the hosts may have that they have; 1 while somebody waits."""
        return 1.0 if self._lines else sum(self._group.outstanding) / sum(self._most)

    @property
    def has_ahead(self) -> bool:
        """Whether a host has more than it works at, and it may be another's yet."""
        return self._scheduler.rebinds and any(view.queued for view in self._group.views)

    @property
    def _has_free(self) -> bool:
        return any(view.is_free for view in self._group.views)

    def assign(self, line: Line, records: int, most: int, *, waits: bool = True) -> tuple[int, int] | None:
        """Wait until some of the records of a producer may go: to which host, and how many, up to `most`. Who does not
        wait gets None where none may go now. Raises `Aborted`."""
        with self._changed:
            line.comes(records, time.monotonic())
            self._lines.append(line)
            try:
                while (chosen := self._choose(line, most)) is None:
                    self._control.check()
                    if not waits:
                        return None
                    self._changed.wait(self._look_again_s())
            finally:
                self._lines.remove(line)
                self._changed.notify_all()
            line.left_s = time.monotonic()
            self._attain(line, chosen[1])
            self._give(*chosen, line.left_s)
            return chosen

    def withdraw(self, host: int, records: int) -> None:
        """What was assigned last could not be sent."""
        with self._changed:
            self._take_away(host, records)
            self._changed.notify_all()

    def done(self, host: int, records: int, took_s: float) -> int | None:
        """A worker has done so many. Returns a host that has more than it works at, if another could begin with it."""
        with self._changed:
            pieces = self._done(self._given[host], records)
            self._group.take_back(host, records, took_s, time.monotonic(), pieces)
            self._make_room()
            self._changed.notify_all()
            return self._held_up() if self._scheduler.rebinds and self._has_free else None

    def again(self, host: int, records: int) -> int:
        """A piece has come back from `host`: who gets it now."""
        with self._changed:
            self._take_away(host, records)
            now_s = time.monotonic()
            cost_s = self._group.cost_s(records)
            seen = self._group.seen(now_s)
            chosen = self._scheduler.choose(Work(cost_s), seen, cost_s).choice
            if chosen is None or chosen == host or self._is_full(chosen):
                idle = [index for index, view in enumerate(seen) if view.is_free and view.speed >= seen[host].speed]
                chosen = idle[0] if idle else host
            self._give(chosen, records, now_s)
            return chosen

    def _held_up(self) -> int | None:
        """The host whose next piece waits longest; while new work comes, only behind what takes longer than thought."""
        seen = self._group.seen(time.monotonic())
        late = [
            index for index, view in enumerate(seen) if view.queued and (not self._lines or self._is_late(index, view))
        ]
        return max(late, key=lambda index: seen[index].backlog_s, default=None)

    def _is_late(self, host: int, seen: Replica) -> bool:
        return seen.backlog_s > self._group.views[host].backlog_s

    def _give(self, host: int, records: int, now_s: float) -> None:
        self._given[host].append(records)
        self._group.give(host, records, now_s)

    def _take_away(self, host: int, records: int) -> None:
        """The newest piece of that size; where workers ended in another order than they began, the newest of all."""
        given = self._given[host]
        alike = [index for index, size in enumerate(given) if size == records]
        if alike:
            del given[alike[-1]]
        else:
            rest = given.pop() - records
            given.extend([rest + given.popleft()] if given else [])
        self._group.withdraw(host, records)

    def _done(self, given: deque[int], records: int) -> int:
        """How many pieces are over with so many records more."""
        pieces = 0
        while given and records >= given[0]:
            records -= given.popleft()
            pieces += 1
        if given:
            given[0] -= records
        return pieces

    def snapshot(self, task: str) -> RouteSnapshot:
        """What it knows, and why it decided as it did last; from any thread."""
        with self._changed:
            now_s = time.monotonic()
            scores = self._scores or [0.0] * len(self._group.views)
            rows = [_row(view, score) for view, score in zip(self._group.seen(now_s), scores, strict=True)]
            cost_s = self._group.cost_s()
        return RouteSnapshot(task, self._scheduler.name, cost_s, self._reason, tuple(rows))

    def _choose(self, line: Line, most: int) -> tuple[int, int] | None:
        now_s = time.monotonic()
        if len(self._lines) > 1:
            first = self._scheduler.order([self._work(each, now_s) for each in self._lines]).choice
            if self._lines[first] is not line:
                return None
        count = min(most, self._count(line.records))
        cost_s = self._group.cost_s(count)
        replicas = self._group.seen(now_s)
        work = Work(cost_s, now_s - line.since_s, job=line.step, attained_s=self._attained.get(line.step, 0.0))
        decision = self._scheduler.choose(work, replicas, self._waiting_s(cost_s, replicas))
        self._scores, self._reason = decision.scores, decision.reason
        chosen = decision.choice
        return None if chosen is None or self._is_full(chosen) else (chosen, count)

    def _is_full(self, host: int) -> bool:
        return self._group.outstanding[host] >= self._most[host]

    def _make_room(self) -> None:
        """For what all hosts do in a short while: slow work waits at its source, where it takes no memory."""
        cost_s = self._group.cost_s()
        wanted = int(WAITING_S * self.slots / cost_s) if cost_s else 0
        self.room = max(self._least_room, min(self._most_room, wanted))

    def _count(self, records: int) -> int:
        """Of a piece: what takes a host `PIECE_S`."""
        cost_s = self._group.cost_s()
        wanted = int(PIECE_S * self._each / cost_s) if cost_s else 1
        return max(1, min(records, self._largest, max(self._least, wanted)))

    def _waiting_s(self, cost_s: float, replicas: Sequence[Replica]) -> float:
        """What waits here, and what will have come before the slowest had done a piece of `cost_s`."""
        horizon_s = cost_s / min(replica.speed for replica in replicas)
        return self._group.cost_s(sum(line.records + line.per_s * horizon_s for line in self._lines))

    def _work(self, line: Line, now_s: float) -> Work:
        cost_s = self._group.cost_s(self._count(line.records))
        return Work(cost_s, now_s - line.since_s, job=line.step, attained_s=self._attained.get(line.step, 0.0))

    def _attain(self, line: Line, records: int) -> None:
        """Nobody may save up turns: who has had nothing for a while counts as the one that has had least."""
        least = min(self._attained.values(), default=0.0) if line.step not in self._attained else 0.0
        self._attained[line.step] = self._attained.get(line.step, least) + self._group.cost_s(records)

    def _look_again_s(self) -> float | None:
        """When a host will be so nearly done that it may get more; None: not before something happens."""
        seen = self._group.seen(time.monotonic())
        left = [view.backlog_s / (view.slots * view.speed) - AHEAD_S for view in seen if view.queued < view.slots]
        soonest_s = min((each for each in left if each > 0), default=math.inf)
        return None if soonest_s == math.inf else soonest_s

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def most_of(slots: int) -> int:
    """How many pieces a host of so many slots may have."""
    return slots + max(AHEAD, slots)


def _row(view: Replica, score: float) -> Routed:
    possible = None if math.isinf(score) else score
    return Routed(view.node, view.speed, view.given, view.running + view.queued, possible)
