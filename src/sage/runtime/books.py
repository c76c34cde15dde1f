"""The books of a run with several hosts: reports come in, and are entered when nothing that they rest on is missing."""

from __future__ import annotations

from collections.abc import Mapping

from sage.runtime.account import Account
from sage.runtime.deadletters import DeadLetters
from sage.runtime.ledger import Book
from sage.runtime.reports import Report, Terms


class Books:
    """Enters the reports of all hosts in the ledger, the account and the dead letters. Used by one thread.

    What was entered is always a consistent cut: a record's end never without its birth.
    """

    def __init__(self, ledger: Book, letters: DeadLetters) -> None:
        self._ledger = ledger
        self._letters = letters
        self._entered: dict[int, int] = {}
        self._waiting: dict[int, list[Report]] = {}
        self._held = 0
        self._terms: Mapping[int, Terms] = {}
        self._changes = 0
        self._dead_lettered = 0

    def take(self, report: Report) -> None:
        """Take in a report; those of one host come in the order of their numbers. Raises `StorageError`."""
        alone = not self._held and all(self._entered.get(other, 0) >= number for other, number in report.needs.items())
        self._waiting.setdefault(report.host, []).append(report)
        self._held += 1
        ready = [report] if alone else self._ready()
        for entered in ready:  # before anything else: letters may be refused, and then nothing is entered
            while entered.letters:
                self._letters.keep(entered.letters[0])
                del entered.letters[0]
        for entered in ready:
            self._entered[entered.host] = entered.number
            self._waiting[entered.host].remove(entered)
            self._dead_lettered += entered.buried
            self._changes += sum(entered.changes.values())
        self._held -= len(ready)
        self._ledger.change(entered.changes for entered in ready)
        self._terms = {**self._terms, **{entered.host: entered.terms for entered in ready if entered.terms is not None}}
        self._letters.check_limit()

    @property
    def waiting(self) -> int:
        """Reports that came and rest on others which did not."""
        return self._held

    def account(self) -> Account:
        """The account as entered; from any thread."""
        terms = Terms.sum(self._terms.values())
        return Account(
            read=terms.read,
            created=terms.created,
            written=terms.written,
            dead_lettered=self._dead_lettered,
            filtered=terms.filtered,
            merged=terms.merged,
            unfinished=terms.entered + self._changes,
        )

    def _ready(self) -> list[Report]:
        """The most reports that rest on nothing but one another and what was entered."""
        ready = {host: list(reports) for host, reports in self._waiting.items()}
        while True:
            reach = {host: reports[-1].number for host, reports in ready.items() if reports}
            held = False
            for host, reports in ready.items():
                for index, report in enumerate(reports):
                    if any(
                        max(reach.get(other, 0), self._entered.get(other, 0)) < number
                        for other, number in report.needs.items()
                    ):
                        ready[host] = reports[:index]  # nor those that come after it
                        held = True
                        break
            if not held:
                return [report for reports in ready.values() for report in reports]
