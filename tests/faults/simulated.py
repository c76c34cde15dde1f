"""A world in virtual time: the driver, hosts, a network, a disk and a job that must come to its right end.

One thread, one source of chance, one agenda. What decides and what keeps is the product's own code: `Dispatcher`,
`Books`, `Reports`, `DurableBook`, `Stock`, `Handover`, `Checkpoints`, `StepJournal`, `Member`, `RetryPolicy`. The world
around it is bad: hosts die or stand still, messages are late and overtake one another, calls fail, commits fail, the
driver is killed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any

from simulated_disk import Directory, Disk, Slots

from sage.errors import HostError, SageError
from sage.flow.source import Chunk
from sage.record import Batch, Lineage
from sage.runtime.books import Books
from sage.runtime.control import Aborted, Control
from sage.runtime.dispatcher import Dispatcher, Instruction
from sage.runtime.durable import Taken
from sage.runtime.handover import Handover
from sage.runtime.ledger import DurableBook
from sage.runtime.member import Member
from sage.runtime.messages import Lost
from sage.runtime.reading import unfinished
from sage.runtime.reports import Report, Reports, Stamp
from sage.runtime.retry import RetryBudget, RetryPolicy
from sage.runtime.stats import StepStats
from sage.runtime.stock import Stock
from sage.runtime.worker import Ended, Opened

KEYS = 3
MOST_OPEN = 10
LONGEST_S = 4000.0
"""Of virtual time; a job that is not done by then never will be."""


class World:
    """Time, chance, and what outlives processes: the disk, the outputs, the bill."""

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
        self.begun_again = 0
        self.done = False

    def after(self, wait_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_s + wait_s, next(self._order), act))

    def some_s(self, most_s: float) -> float:
        return self.chance.random() * most_s

    def run(self) -> list[str]:
        """Let it all happen; what is wrong at the end."""
        Run(self)
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
        right = Counter(range(self.records))
        for name, found in (("lines", Counter(self.lines)), ("table", Counter(map(_number, self.table)))):
            if found != right:
                yield f"LOST or DUP in {name}: {sorted((found - right) + (right - found))}"
        if self.sums != {key: sum(range(key, self.records, KEYS)) for key in range(KEYS)}:
            yield f"LOST or DUP in sums: {self.sums}"
        if sum(self.calls.values()) > self.records + self.repeats:
            yield f"BILL: {sum(self.calls.values())} calls, and {self.records + self.repeats} would be the most"


def _number(rid: str) -> int:
    return int(rid.rpartition("/")[2])


class Run:
    """A life of the driver. When it is killed, or its journal fails, another one begins."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.over = False
        self.directory = Directory(world.disk, self._journal_failed)
        directory: Any = self.directory
        self.handover = Handover(directory)
        self.directory.cut_from(self.handover.cut)
        self.attempt: Attempt | None = None
        self._begin(DurableBook(Control(), MOST_OPEN, self.directory.progress))
        self._checkpoint()
        if world.faults and world.chance.random() < 0.5:
            world.faults -= 1
            fate = self.kill if world.chance.random() < 0.6 else self.directory.journal.fail
            world.after(world.some_s(1.5), lambda: None if self.over else fate())

    def kill(self) -> None:
        """The driver dies, and its hosts with it; another run begins."""
        if self.over:
            return
        self.over = True
        assert self.attempt is not None
        self.attempt.lose_all(also_those_out_of_reach=True)
        self.world.after(0.1 + self.world.some_s(2.0), lambda: Run(self.world))

    def ended(self, attempt: Attempt, failure: BaseException | None) -> None:
        """All workers of an attempt have ended."""
        if self.over:
            return
        try:
            if failure is None:
                self._succeed(attempt)
            elif isinstance(failure, HostError):
                self.handover.release(())
                self.world.begun_again += 1
                self._begin(attempt.book.successor(Control()))
            else:
                self.kill()
        except SageError:  # the run has failed, and somebody starts the next one
            self.kill()

    def _begin(self, book: DurableBook) -> None:
        self.handover.attach(book)
        self.attempt = Attempt(self, book)

    def _succeed(self, attempt: Attempt) -> None:
        account = attempt.books.account()
        if account.missing or attempt.book.open_records:
            raise AssertionError(f"ACCOUNT: {account}, {attempt.book.open_records} open")
        self.directory.checkpoints.begin_again()  # the last one
        self.over = self.world.done = True

    def _checkpoint(self) -> None:
        if self.over:
            return
        try:
            self.directory.checkpoints._take()
        except SageError as error:
            self._journal_failed(error)
        self.world.after(0.1, self._checkpoint)

    def _journal_failed(self, error: SageError) -> None:
        if self.attempt is not None and not self.over:
            self.attempt.tell(Ended("journal", error))


class Keeping:
    """A stage at home that takes records up: a file of lines, or sums by key."""

    def __init__(self, run: Run, name: str, instance: int = 0) -> None:
        self.plan: Any = SimpleNamespace(name=name)
        self.world = run.world
        held = run.handover.held(name)
        self.stock = Stock(run.handover, self)
        if held is None:
            self._go_on(run)
        self._changed: set[int] = set()

    def _go_on(self, run: Run) -> None:
        if self.plan.name == "lines":
            del self.world.lines[run.handover.output("lines") or 0 :]
        else:
            self.world.sums = dict(run.handover.state("sums"))

    def accept(self, batch: Batch, settle: Callable[[Batch], None]) -> None:
        with self.stock.taking():
            new, known = self.stock.split(batch)
            if known is not None:
                settle(known)
            if new.records:
                self._write(new.records)
                self.stock.add(new.lineage)
                settle(new)

    def _write(self, records: list[int]) -> None:
        if self.plan.name == "lines":
            self.world.lines += records
            return
        for n in records:
            self.world.sums[n % KEYS] = self.world.sums.get(n % KEYS, 0) + n
            self._changed.add(n % KEYS)

    def take_stock(self) -> Taken | None:
        with self.stock.taken() as lineage:
            if not lineage:
                return None
            if self.plan.name == "lines":
                return Taken(len(self.world.lines), (), (), lineage)
            changed, self._changed = self._changed, set()
            return Taken(None, [(key, self.world.sums[key]) for key in changed], (), lineage)

    def holding(self) -> Any:
        return self.world


class Attempt:
    """The graph at work once: home, which reads and writes, and hosts that call."""

    def __init__(self, run: Run, book: DurableBook) -> None:
        self.run, self.book, self.world = run, book, run.world
        self.over = False
        letters: Any = SimpleNamespace(keep=None, check_limit=lambda: None)
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


class Party:
    """A process with one worker: it reports what it does, and sends batches with what they rest on."""

    def __init__(self, attempt: Attempt, number: int) -> None:
        self.attempt, self.number, self.world = attempt, number, attempt.world
        self.reports = Reports(number, self._send)
        self.ledger = self.reports.ledger_of(f"worker {number}", attempt.book if number == 0 else None)
        self.stats = StepStats("step")
        self.ledger.stats.append(self.stats)
        self._latest_s = 0.0
        self._due = False

    def publish(self) -> Stamp:
        self.ledger.publish()
        if not self._due:
            self._due = True
            self.world.after(0.005, self._flush)
        return self.reports.stamp()

    def _flush(self) -> None:
        self._due = False
        self.reports.flush()

    def _send(self, report: Report) -> None:
        """Reports of one host come in order, and at any time."""
        self._latest_s = max(self._latest_s, self.world.now_s + self.world.some_s(0.2))
        self.world.after(self._latest_s - self.world.now_s, lambda: self.attempt.take(report))


class Home(Party):
    """The source and the sinks."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt, 0)
        self.lines = Keeping(attempt.run, "lines")
        self.sums = Keeping(attempt.run, "sums")
        before = attempt.run.handover.progress("in")
        everything = Chunk(list(range(self.world.records)), list(range(self.world.records)))
        start = 0 if before.position is None else before.position + 1
        rest = Chunk(everything.records[start:], everything.positions[start:])
        self._left = list(unfinished(rest, before).records) if not before.complete else []
        self._reading = False

    def read(self) -> None:
        """As much as may be open; when all is read and finished, the attempt is over."""
        if self._reading or self.attempt.dispatcher.state != "running":
            return
        self._reading = True
        while self._left and self.attempt.book.open_records + 4 <= MOST_OPEN:
            some = [self._left.pop(0) for _ in range(min(len(self._left), self.world.chance.randint(1, 4)))]
            ticket = self.ledger.open("in", some[0], some[-1], len(some), self.world.now_s)
            self.stats.read += len(some)
            batch = Batch(list(some), (Lineage.of_source(ticket, some),))
            stamp, host = self.publish(), self.world.chance.choice(self.attempt.hosts)
            self.world.after(self.world.some_s(0.1), partial(host.arrived, batch, stamp))
        self._reading = False
        if not self._left:
            self.ledger.exhausted("in")
            if self.attempt.book.open_records == 0 and self.attempt.books.waiting == 0:
                self.attempt.finish()

    def arrived(self, batch: Batch, stamp: Stamp) -> None:
        """The sinks take it when they come to it."""
        if self.attempt.run.over:
            return
        self.reports.rest_on(stamp)
        for take in (self._insert, partial(self._accept, self.lines), partial(self._accept, self.sums)):
            self.world.after(self.world.some_s(0.05), partial(take, batch))

    def _accept(self, keeper: Keeping, batch: Batch) -> None:
        if self.attempt.run.over:
            return
        try:
            keeper.accept(batch, self._settle)
        except Aborted:
            return

    def _insert(self, batch: Batch) -> None:
        if not self.attempt.run.over:
            for rid in batch.rids:
                self.world.table[rid] = 1
            self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        self.stats.written += len(batch)
        self.ledger.settle_all(batch.lineage)
        self.publish()


class Host(Party):
    """A process that calls. It may die, or stand still and wake up later."""

    def __init__(self, attempt: Attempt, number: int) -> None:
        super().__init__(attempt, number)
        self.name = f"host {number}"
        self.dead = False
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
            fate = self.die if self.world.chance.random() < 0.6 else self._stand_still
            self.world.after(self.world.some_s(1.0), fate)

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
        if self._results.find(key) is not None:
            self._pass_on(one)
            return
        slot = self._results.enter(key, rid)
        assert slot is not None
        self._policy.called()
        self._call(one, key, slot, 1)

    def _call(self, one: Batch, key: bytes, slot: int, attempts: int) -> None:
        n = one.records[0]
        self.world.calls[n] += 1
        self.world.repeats += self.attempt.over  # it woke up, and does not know that nobody waits for it

        def answer() -> None:
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
