"""A world in virtual time: the driver, hosts, a network, a disk and a job that must come to its right end.

One thread, one source of chance, one agenda. What decides and what keeps is the product's own code: `Dispatcher`,
`Books`, `Reports`, `DurableBook`, `Stock`, `Handover`, `Checkpoints`, `StepJournal`, `Member`, `RetryPolicy`. The world
around it is bad: hosts die or stand still, messages are late and overtake one another, calls fail, commits fail, a
record kills its host, the driver is killed, or stands still and commits when another run has begun.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from simulated_disk import Directory
from simulated_home import MOST_OPEN
from simulated_hosts import Attempt
from simulated_world import World as BareWorld

from sage.errors import HostError, SageError
from sage.runtime.control import Control
from sage.runtime.handover import Handover
from sage.runtime.ledger import DurableBook
from sage.runtime.worker import Ended


class World(BareWorld):
    """In which runs of one job follow one another."""

    def begin(self) -> None:
        Run(self)


class Run:
    """A life of the driver. When it is killed, or its journal fails, another one begins."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.over = False
        self.directory = Directory(world.disk, self._journal_failed)
        left, world.left = world.left, []
        self.directory.count_deaths(left)
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
        for host in self.attempt.hosts:
            host.leave_behind()
            self.world.left += host.left
        self.attempt.lose_all(also_those_out_of_reach=True)
        self.world.after(0.1 + self.world.some_s(2.0), lambda: Run(self.world))
        if self.world.chance.random() < 0.5:
            self.world.after(self.world.some_s(6.0), self._wake)

    def _wake(self) -> None:
        """It only stood still, and goes on where it was: nothing of what it commits may count."""
        with suppress(SageError):
            self.directory.checkpoints._take()

    def ended(self, attempt: Attempt, failure: BaseException | None) -> None:
        """All workers of an attempt have ended."""
        if self.over:
            return
        try:
            if failure is None:
                self._succeed(attempt)
            elif isinstance(failure, HostError):
                self.directory.count_deaths([call for host in attempt.hosts for call in host.left])
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
