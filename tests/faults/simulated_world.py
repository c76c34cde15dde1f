"""Time, chance and what outlives processes in the simulated world, and what must be true of it at the end."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from random import Random

from simulated_disk import Disk

from sage.runtime.durability.memo import MOST_DEATHS
from sage.runtime.durability.slots import InFlight

KEYS = 3
LONGEST_S = 4000.0
"""Of virtual time; a job that is not done by then never will be."""


class World(ABC):
    """The disk, the outputs, the bill."""

    def __init__(self, seed: int, *, records: int = 12, hosts: int = 2, faults: int = 3) -> None:
        self.chance = Random(seed)
        self.records = records
        self.hosts = hosts
        self.faults = faults
        self.now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.disk = Disk()
        self.lines: list[int] = []
        """A file; what was written behind the last safe place is cut off when a run goes on."""
        self.table: Counter[str] = Counter()
        """Effects by rid, where a rid that is there is passed over."""
        self.sums: dict[int, int] = {}
        self.calls: Counter[int] = Counter()
        self.repeats = 0
        """Calls that may be made again: those that failed, and those in flight when their process died."""
        self.poison = self.chance.randrange(records) if self.chance.random() < 0.3 else -1
        """A record that kills its process whenever it is called."""
        self.deaths: Counter[int] = Counter()
        """Of processes, while this record was in flight there."""
        self.dead: set[int] = set()
        """Dead letters."""
        self.left: list[InFlight] = []
        """Calls that were in flight when the driver was killed."""
        self.begun_again = 0
        self.done = False

    @abstractmethod
    def begin(self) -> None:
        """Somebody starts a run of the job."""

    def after(self, wait_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_s + wait_s, next(self._order), act))

    def some_s(self, most_s: float) -> float:
        return self.chance.random() * most_s

    def run(self) -> list[str]:
        """Let it all happen; what is wrong at the end."""
        self.begin()
        while self._agenda and not self.done:
            self.now_s, _, act = heapq.heappop(self._agenda)
            if self.now_s > LONGEST_S:
                break
            act()
        return list(self._violations())

    def _violations(self) -> Iterator[str]:
        if not self.done:
            yield "ENDS: never"
            return
        right = Counter(n for n in range(self.records) if n not in self.dead)
        for name, found in (("lines", Counter(self.lines)), ("table", Counter(map(number_of, self.table)))):
            if found != right:
                yield f"LOST or DUP in {name}: {sorted((found - right) + (right - found))}"
        if self.sums != self._right_sums(right):
            yield f"LOST or DUP in sums: {self.sums}"
        if wrongly := {n for n in self.dead if self.deaths[n] < MOST_DEATHS}:
            yield f"LOST to dead letters: {sorted(wrongly)}"
        if self.poison >= 0 and self.poison not in self.dead:
            yield f"POISON {self.poison} is no dead letter"
        if sum(self.calls.values()) > self.records + self.repeats:
            yield f"BILL: {sum(self.calls.values())} calls, and {self.records + self.repeats} would be the most"

    def _right_sums(self, right: Counter[int]) -> dict[int, int]:
        return {key: sum(n for n in right if n % KEYS == key) for key in {n % KEYS for n in right}}


def number_of(rid: str) -> int:
    """The record with this id."""
    return int(rid.rpartition("/")[2])
