"""A cluster in virtual time: replicas with slots and speeds, work that arrives, one scheduler."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from sage.scheduling import Costs, Replica, Scheduler, Speeds, Work


@dataclass(frozen=True)
class Arrival:
    at_s: float
    cost_s: float
    band: int = 0
    job: str = ""
    weight: float = 1.0
    """What the scheduler is told of it: its estimate is learned for each unit of this."""


@dataclass
class Machine:
    slots: int
    speed: float
    running: int = 0
    queue: list[int] = field(default_factory=list)
    given: int = 0
    outstanding: set[int] = field(default_factory=set)


@dataclass
class Outcome:
    makespan_s: float
    latencies_s: dict[int, float]
    """By arrival."""
    given: list[int]
    """By replica."""
    arrivals: Sequence[Arrival]

    def p99_s(self, band: int | None = None) -> float:
        chosen = sorted(s for i, s in self.latencies_s.items() if band is None or self.arrivals[i].band == band)
        return chosen[min(len(chosen) - 1, int(len(chosen) * 0.99))]

    @property
    def balance(self) -> float:
        mean = sum(self.given) / len(self.given)
        sigma = (sum((each - mean) ** 2 for each in self.given) / len(self.given)) ** 0.5
        return 1 - sigma / mean


def simulate(  # noqa: PLR0915 -- one simulation, one story
    scheduler: Scheduler, replicas: Sequence[tuple[int, float]], arrivals: Sequence[Arrival]
) -> Outcome:
    """Run all `arrivals` on `replicas` (slots, true speed). Costs and speeds are learned, not told."""
    machines = [Machine(slots, speed) for slots, speed in replicas]
    costs, speeds = Costs(), Speeds()
    events: list[tuple[float, int, str, int, int]] = []
    number = count()
    for index, arrival in enumerate(arrivals):
        heapq.heappush(events, (arrival.at_s, next(number), "arrive", index, -1))
    lines: dict[tuple[int, str], deque[int]] = {}
    waiting_weight = 0.0
    done: dict[int, float] = {}
    attained: dict[str, float] = {}
    now_s = 0.0

    def begin(machine: int) -> None:
        host = machines[machine]
        while host.queue and host.running < host.slots:
            index = host.queue.pop(0)
            host.running += 1
            took_s = arrivals[index].cost_s / host.speed
            heapq.heappush(events, (now_s + took_s, next(number), "end", index, machine))

    def estimate(index: int) -> float:
        return costs.of("step", arrivals[index].weight)

    def view() -> list[Replica]:
        return [
            Replica(
                f"n{i}",
                m.slots,
                m.running,
                len(m.queue),
                sum(map(estimate, m.outstanding)),
                speeds.of(f"n{i}"),
                m.given,
            )
            for i, m in enumerate(machines)
        ]

    def dispatch() -> None:
        nonlocal waiting_weight
        while heads := sorted(line[0] for line in lines.values() if line):
            works = [
                Work(estimate(i), now_s - a.at_s, a.band, a.job, attained.get(a.job, 0.0))
                for i, a in ((i, arrivals[i]) for i in heads)
            ]
            first = scheduler.order(works).choice
            target = scheduler.choose(works[first], view(), costs.of("step", waiting_weight)).choice
            if target is None:
                return
            index = lines[arrivals[heads[first]].band, arrivals[heads[first]].job].popleft()
            waiting_weight -= arrivals[index].weight
            host = machines[target]
            host.given += 1
            host.queue.append(index)
            host.outstanding.add(index)
            attained[arrivals[index].job] = attained.get(arrivals[index].job, 0.0) + works[first].cost_s
            begin(target)

    while events:
        now_s, _, kind, index, machine = heapq.heappop(events)
        if kind == "arrive":
            lines.setdefault((arrivals[index].band, arrivals[index].job), deque()).append(index)
            waiting_weight += arrivals[index].weight
        else:
            host = machines[machine]
            host.running -= 1
            host.outstanding.discard(index)
            took_s = arrivals[index].cost_s / host.speed
            speeds.observe(f"n{machine}", estimate(index), took_s)
            costs.observe("step", arrivals[index].weight, took_s, speeds.of(f"n{machine}"))
            done[index] = now_s - arrivals[index].at_s
            begin(machine)
        if not events or events[0][0] > now_s:
            dispatch()
    return Outcome(now_s, done, [machine.given for machine in machines], arrivals)
