"""The graph at work once, from the opening of everything to the end of everybody.

Most runs are one attempt; one that loses a host is followed by another.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sage.errors import HostError, QueueBroken, SageError
from sage.runtime.control import Control
from sage.runtime.crew import Crew
from sage.runtime.dispatcher import Dispatcher, Instruction
from sage.runtime.ledger import Book
from sage.runtime.worker import Ended, Event

ABORT_GRACE_S = 1.0
"""How long threads may take to notice an abort before they are left behind."""
END_GRACE_S = 5.0
"""How long threads may take to end after they said that they are done."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended."""

    failure: BaseException | None
    stuck: list[str]
    """Workers that did not end."""
    loss: HostError | None
    """The failure is that a host was lost."""


class Attempt:
    """Used by one thread, that of the job, but for `abort` and `control`."""

    def __init__(self, control: Control, messages: queue.SimpleQueue[Any], book: Book, crew: Crew) -> None:
        self.control = control
        self.book = book
        self.crew = crew
        self._messages = messages

    def start(self) -> None:
        self._dispatcher = Dispatcher(self.crew.members, self.crew.openers)
        self.crew.start()

    def abort(self) -> None:
        """End soon, from any thread."""
        self._messages.put(None)

    def tell(self, error: SageError) -> None:
        """The journal has failed; from any thread."""
        self._messages.put(error)

    def drive(self) -> Ending:
        """Carry out the dispatcher's instructions until no worker is left."""
        until: float | None = None
        concluded = False
        while not concluded:
            try:
                message = self._messages.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break  # somebody does not notice the abort: leave it behind
            events = self._events_of(message)
            decided = (
                self._dispatcher.abort()
                if message is None
                else list(chain.from_iterable(map(self._dispatcher.handle, events)))
            )
            for instruction in decided:
                if instruction is Instruction.GO:
                    self.crew.go()
                elif instruction is Instruction.ABORT:
                    self.control.abort()
                    self.crew.go()
                    until = time.monotonic() + ABORT_GRACE_S
                else:
                    concluded = True
        stuck, late = self.crew.close(0.0 if self.control.aborted.is_set() else END_GRACE_S)
        failure = self._dispatcher.failure or late
        return Ending(failure, stuck, self._loss(failure))

    def _events_of(self, message: Any) -> Sequence[Event]:
        if isinstance(message, SageError):  # of the journal
            return [Ended("journal", message)]
        return () if message is None else self.crew.events_of(message)

    def _loss(self, failure: BaseException | None) -> HostError | None:
        """A queue that broke is how others learn that a host is gone, and some do before the driver."""
        if isinstance(failure, HostError):
            return failure
        if isinstance(failure, QueueBroken):
            lost = HostError("E810", f"a queue between two hosts broke: {failure.what}", at=failure.at)
            lost.__cause__ = failure
            return next(iter(self.crew.lost), lost)
        return None
