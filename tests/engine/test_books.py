"""Reports of several hosts, in whatever order they come: what was entered is always a cut that could have been."""

from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sage.record import Ticket
from sage.runtime.books import Books
from sage.runtime.control import Control
from sage.runtime.deadletters import DeadLetters
from sage.runtime.ledger import Book
from sage.runtime.reports import Report, Reports, Stamp
from sage.runtime.stats import StepStats

HOSTS = 3


class Far:
    """A host with one worker, whose records go to other hosts or come to an end."""

    def __init__(self, number: int, book: Book | None) -> None:
        self.sent: list[Report] = []
        self.reports = Reports(number, self.sent.append)
        self.ledger = self.reports.ledger_of(f"worker {number}", book)
        self.stats = StepStats("step")
        self.ledger.stats.append(self.stats)


def books() -> tuple[Books, Book]:
    book = Book(Control(), 1_000_000)
    return Books(book, DeadLetters(Path("none.jsonl"), "test", "run")), book


class World:
    """Records wander between hosts, divide and end; reports are cut anywhere, and come in any order of the hosts."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.entered, self.book = books()
        self.hosts = [Far(number, self.book if number == 0 else None) for number in range(HOSTS)]
        self.flying: list[tuple[Ticket, Stamp]] = []
        for n in range(chance.randrange(1, 4)):
            ticket = self.hosts[0].ledger.open("p", n, n, 1, 0.0)
            self.hosts[0].stats.read += 1
            self.send(self.hosts[0], ticket)

    def send(self, host: Far, ticket: Ticket) -> None:
        host.ledger.publish()
        self.flying.append((ticket, host.reports.stamp()))

    def move(self, divides: bool) -> None:
        """One record arrives somewhere; it goes on as two, or ends."""
        ticket, stamp = self.flying.pop(self.chance.randrange(len(self.flying)))
        host = self.chance.choice(self.hosts)
        host.reports.rest_on(stamp)
        if divides:
            host.ledger.grow(ticket, 1)
            host.stats.created += 1
            self.send(host, ticket)
            self.send(host, ticket)
        else:
            host.ledger.settle(ticket, 1)
            host.stats.written += 1
            host.ledger.publish()

    def deliver(self) -> None:
        """One report arrives, of a host that has any."""
        ready = [host for host in self.hosts if host.sent]
        if ready:
            self.entered.take(self.chance.choice(ready).sent.pop(0))
            assert self.entered.account().missing == 0
            assert all(ticket.open >= 1 for ticket, _ in self.flying)


@settings(max_examples=150)
@given(chance=st.randoms(use_true_random=False))
def test_any_order_of_arrival(chance: Random) -> None:
    world = World(chance)
    for _ in range(chance.randrange(60)):
        if world.flying and chance.random() < 0.7:
            world.move(divides=chance.random() < 0.5)
        if chance.random() < 0.4:
            chance.choice(world.hosts).reports.flush()
        if chance.random() < 0.4:
            world.deliver()
    while world.flying:
        world.move(divides=False)
    for host in world.hosts:
        host.reports.flush()
    while any(host.sent for host in world.hosts):
        world.deliver()
    account = world.entered.account()
    assert (account.unfinished, world.entered.waiting, world.book.open_records) == (0, 0, 0)
    assert account.written == account.read + account.created
    assert world.book.position("p") == account.read - 1


def test_an_end_waits_for_its_birth() -> None:
    entered, book = books()
    home, one, two = (Far(number, book if number == 0 else None) for number in range(HOSTS))
    ticket = home.ledger.open("p", 0, 0, 1, 0.0)
    one.ledger.grow(ticket, 1)
    one.ledger.publish()
    two.reports.rest_on(one.reports.stamp())
    two.ledger.settle(ticket, 2)
    two.ledger.publish()
    two.reports.flush()
    entered.take(two.sent.pop())
    assert (entered.waiting, ticket.open, book.position("p")) == (1, 1, None)
    one.reports.flush()
    entered.take(one.sent.pop())
    assert (entered.waiting, ticket.open, book.position("p")) == (0, 0, 0)


def test_reports_that_rest_on_one_another_are_entered_together() -> None:
    entered, book = books()
    home, one, two = (Far(number, book if number == 0 else None) for number in range(HOSTS))
    ticket = home.ledger.open("p", 0, 1, 2, 0.0)
    for far, other in ((one, two), (two, one)):
        far.ledger.grow(ticket, 1)
        far.ledger.publish()
        other.reports.rest_on(far.reports.stamp())
    for far in (one, two):
        far.ledger.settle(ticket, 2)
        far.ledger.publish()
        far.reports.flush()
    entered.take(one.sent.pop())
    assert (entered.waiting, ticket.open) == (1, 2)
    entered.take(two.sent.pop())
    assert (entered.waiting, ticket.open) == (0, 0)


def test_a_stamp_names_no_report_that_is_never_sent() -> None:
    far = Far(1, None)
    assert far.reports.stamp() == Stamp(1, 0)
    far.stats.created += 1
    far.ledger.publish()
    assert far.reports.stamp() == Stamp(1, 1)
    far.reports.flush()
    far.reports.flush()
    assert far.reports.stamp() == Stamp(1, 1)
    assert [report.number for report in far.sent] == [1]
