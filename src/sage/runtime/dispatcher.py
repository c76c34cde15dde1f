"""The dispatcher's decisions: a state machine without I/O. Events of workers go in, instructions come out.

::

    OPENING --all opened--> RUNNING --all ended--> ENDED
       \\                       |
        `---- failure, abort ---+--> ABORTING --all ended--> ENDED

A stop only asks the sources to end; the state stays RUNNING and the run drains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from sage.runtime.control import Aborted
from sage.runtime.worker import Ended, Event, Opened


class State(StrEnum):
    OPENING = "opening"
    RUNNING = "running"
    ABORTING = "aborting"
    ENDED = "ended"


class Instruction(Enum):
    """What the driver has to do next."""

    GO = "let all workers go"
    ABORT = "abort: wake everything that waits"
    CONCLUDE = "no worker is left: settle the account"


@dataclass
class Dispatcher:
    """Keeps the book on the workers of one run. The first failure is the run's failure."""

    workers: Sequence[str]
    openers: Sequence[str]
    """Those of them that must be open before any may go."""
    state: State = State.OPENING
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._unopened = set(self.openers)
        self._alive = set(self.workers)

    def handle(self, event: Event) -> list[Instruction]:
        """Take in one event."""
        if isinstance(event, Opened):
            return self._opened(event)
        return self._ended(event)

    def abort(self) -> list[Instruction]:
        """The user asked for an immediate end."""
        if self.state in (State.OPENING, State.RUNNING):
            self.state = State.ABORTING
            return [Instruction.ABORT]
        return []

    def _opened(self, event: Opened) -> list[Instruction]:
        self._unopened.discard(event.worker)
        if self.state is State.OPENING and not self._unopened:
            self.state = State.RUNNING
            return [Instruction.GO]
        return []

    def _ended(self, event: Ended) -> list[Instruction]:
        instructions = []
        if event.error is not None and not isinstance(event.error, Aborted):
            self.failure = self.failure or event.error
            instructions += self.abort()
        self._unopened.discard(event.worker)
        self._alive.discard(event.worker)
        if not self._alive:
            self.state = State.ENDED
            instructions.append(Instruction.CONCLUDE)
        return instructions
