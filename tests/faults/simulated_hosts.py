"""Attempts of the simulated world, and their hosts, which call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

from simulated_disk import Directory, Slots
from simulated_home import Home, Party
from simulated_world import World, number_of

from sage.errors import RecordError, SageError
from sage.record import Batch
from sage.runtime.books import Books
from sage.runtime.control import Aborted
from sage.runtime.dispatcher import Dispatcher, Instruction
from sage.runtime.durability.slots import InFlight
from sage.runtime.handover import Handover
from sage.runtime.ledger import DurableBook
from sage.runtime.member import Member
from sage.runtime.messages import Lost
from sage.runtime.reports import Report, Stamp
from sage.runtime.retry import RetryBudget, RetryPolicy
from sage.runtime.worker import Ended, Opened


class Run(Protocol):
    """The life of the driver that these belong to."""

    world: World
    over: bool
    directory: Directory
    handover: Handover

    def ended(self, attempt: Attempt, failure: BaseException | None) -> None: ...


class Attempt:
    """The graph at work once: home, which reads and writes, and hosts that call."""

    def __init__(self, run: Run, book: DurableBook) -> None:
        self.run, self.book, self.world = run, book, run.world
        self.over = False
        letters: Any = SimpleNamespace(keep=self.world.dead.add, check_limit=lambda: None)
        self.books = Books(book, letters)
        self.home = Home(self)
        self.hosts = [Host(self, number) for number in range(1, self.world.hosts + 1)]
        names = ["home", *(host.name for host in self.hosts)]
        self.dispatcher = Dispatcher(names, names)
        for name in names:
            self.world.after(self.world.some_s(0.05), partial(self.tell, Opened(name)))
        self.world.after(1.0, self._second)

    def tell(self, event: Opened | Ended) -> None:
        """An event for the dispatcher; what it decides is done."""
        if self.over or self.run.over:
            return
        for instruction in self.dispatcher.handle(event):
            if instruction is Instruction.GO:
                self.home.read()
            elif instruction is Instruction.ABORT:
                for name in [*self.dispatcher._alive]:
                    self.world.after(self.world.some_s(0.3), partial(self.tell, Ended(name, Aborted())))
            else:
                self.over = True
                self.lose_all(also_those_out_of_reach=False)
                self.run.ended(self, self.dispatcher.failure)

    def take(self, report: Report) -> None:
        """A report of a host has come."""
        if not (self.over or self.run.over):
            self.books.take(report)
            self.home.read()

    def finish(self) -> None:
        for name in [*self.dispatcher._alive]:
            self.tell(Ended(name, None))

    def lose_all(self, *, also_those_out_of_reach: bool) -> None:
        """Its processes are ended; those that stand still may wake up and go on with what nobody waits for."""
        for host in self.hosts:
            if also_those_out_of_reach or not host.stands_still:
                host.die()
            else:
                host.forget_calls()

    def _second(self) -> None:
        if self.over or self.run.over:
            return
        for host in self.hosts:
            host.member.tick()
        self.world.after(1.0, self._second)


class Host(Party):
    """A process that calls. It may die, or stand still and wake up later."""

    def __init__(self, attempt: Attempt, number: int) -> None:
        super().__init__(attempt, number)
        self.name = f"host {number}"
        self.dead = False
        self.left: list[InFlight] = []
        """Calls in flight when it died."""
        self._still_until_s = 0.0
        self.slots = Slots()
        self._results = attempt.run.directory.results_with(self.slots)
        self._policy = RetryPolicy(50, RetryBudget(), self.world.chance.uniform)
        handle: Any = SimpleNamespace(processor_s=lambda: None, kill=self.die, link=None)
        self.member = Member(number, ["pay"], handle, None)  # type: ignore[arg-type]
        self.member._tell = self._lost
        self._beat()
        if self.world.faults and self.world.chance.random() < 0.4:
            self.world.faults -= 1
            fate = self.crash if self.world.chance.random() < 0.6 else self._stand_still
            self.world.after(self.world.some_s(1.0), fate)

    def crash(self) -> None:
        """It dies of itself, and what was in flight may be why."""
        if not self.dead:
            self.leave_behind()
            self.die()

    def leave_behind(self) -> None:
        """The calls in flight are told in a file that outlives it."""
        self.left = list(self.slots.taken.values())
        self.world.deaths.update(number_of(call.rid) for call in self.left)

    def die(self) -> None:
        if not self.dead:
            self.dead = True
            self.forget_calls()
            self.world.after(self.world.some_s(0.2), lambda: self._lost(Lost(self.number, "it died")))

    def forget_calls(self) -> None:
        """Those in flight may be made again."""
        self.world.repeats += len(self.slots.taken)
        self.slots.taken.clear()

    @property
    def stands_still(self) -> bool:
        return self.world.now_s < self._still_until_s

    def arrived(self, batch: Batch, stamp: Stamp) -> None:
        def take() -> None:
            self.reports.rest_on(stamp)
            for index in range(len(batch)):
                self._begin(batch.slice(index, index + 1))

        self._when_able(take)

    def _begin(self, one: Batch) -> None:
        (rid,), (n,) = one.rids, one.records
        key = self._results.key(rid, n)
        try:
            found = self._results.find(key)
        except RecordError:
            self._give_up(one)
            return
        if found is not None:
            self._pass_on(one)
            return
        slot = self._results.enter(key, rid)
        if slot is None:  # it has to be alone, or another one has
            self.world.after(0.01, lambda: self._when_able(partial(self._begin, one)))
            return
        self._policy.called()
        self._call(one, key, slot, 1)

    def _call(self, one: Batch, key: bytes, slot: int, attempts: int) -> None:
        n = one.records[0]
        self.world.calls[n] += 1
        self.world.repeats += self.attempt.over  # it woke up, and does not know that nobody waits for it

        def answer() -> None:
            if n == self.world.poison:
                self.crash()
                return
            if self.world.chance.random() < 0.1:
                again = self._policy.after(RuntimeError(), attempts, 0, self.world.now_s)
                assert again is not None
                self.world.repeats += 1
                retry = partial(self._call, one, key, slot, attempts + 1)
                self.world.after(again.wait_s, lambda: self._when_able(retry))
                return
            self._results.keep(key, one.rids[0], {"n": n}, lambda: self._when_able(lambda: self._safe(one, slot)))
            self.world.after(self.world.some_s(0.05), self._commit)

        self.world.after(self.world.some_s(0.3), lambda: self._when_able(answer))

    def _commit(self) -> None:
        if not self.attempt.run.over:  # a run that was killed commits nothing more
            self.attempt.run.directory.journal.commit()

    def _safe(self, one: Batch, slot: int) -> None:
        try:
            self._results.check()
        except SageError as error:
            self.attempt.tell(Ended(self.name, error))
            return
        self._results.leave(slot)
        self._pass_on(one)

    def _give_up(self, one: Batch) -> None:
        """A dead letter."""
        self.ledger.letters.append(one.records[0])
        self.ledger.settle_all(one.lineage)
        self.publish()

    def _pass_on(self, one: Batch) -> None:
        """To three sinks: two copies are born here, and all three end at home."""
        for part in one.lineage:
            self.ledger.grow(part.ticket, 2 * part.count)
        self.stats.created += 2 * len(one)
        stamp = self.publish()
        self.world.after(self.world.some_s(0.1), lambda: self.attempt.home.arrived(one, stamp))

    def _when_able(self, act: Callable[[], None]) -> None:
        """Now, when it wakes up, or never."""
        if self.dead:
            return
        if self.stands_still:
            self.world.after(self._still_until_s - self.world.now_s, lambda: self._when_able(act))
        else:
            act()

    def _stand_still(self) -> None:
        self._still_until_s = self.world.now_s + self.world.some_s(60.0)

    def _beat(self) -> None:
        if self.dead or self.attempt.over or self.attempt.run.over:
            return
        if not self.stands_still:
            self.world.after(self.world.some_s(0.2), self._heard)
        self.world.after(2.0, self._beat)

    def _heard(self) -> None:
        self.member._heard += 1

    def _lost(self, message: Any) -> None:
        self.attempt.tell(Ended(self.name, self.member.lost(message.why)))
