"""The contract of sinks: where records end, and what happens when one comes twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sage.errors import SageError


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may know of the run. Handed to `Sink.open`."""

    pipeline: str
    step: str
    append: bool = False
    """Add to what is there instead of replacing it (dead letters are being replayed into an earlier output)."""
    job: str = ""
    """The id of the job that the run belongs to, if it has a directory: what the sink has not committed when the run
    ends stays, under a name with this id, for the next run."""
    place: Any = None
    """Of a job that goes on: what the last `Writer.sync` that counted returned. What was written after it is undone."""
    committing: bool = False
    """All of the job is written; its last run was killed while the sinks committed. This one may have, or may not."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record of a batch that this sink can never take, for example one that is not JSON."""

    index: int
    error: SageError


PASSING = frozenset({"E552", "E555", "E559"})
"""Codes of what may go by without the run: no room, a database that is locked or cannot be reached."""


class Writer(ABC):
    """A sink that has been opened. Used by one thread at a time."""

    @abstractmethod
    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        """Take a batch; `rids[i]` is the stable id of `records[i]` (made when first asked for, so ignoring
        them costs nothing). Returns the records refused for good; everything else is accepted.

        Raises if the batch as a whole failed. The engine then writes it again in smaller parts to find the record at
        fault, so an idempotent writer must not apply a rid twice, and a transactional one must have rolled back.
        `SinkError` and `OSError` mean that the sink itself is broken: the job ends. One with a directory waits for what
        may go by (`PASSING`), and writes the same batch again: nothing of it may have been applied then, or by rid.
        """

    @abstractmethod
    def commit(self) -> None:
        """Everything written so far becomes visible and durable. Called at the end of a run that went well."""

    @abstractmethod
    def abort(self) -> str | None:
        """The run failed or was stopped. Leave nothing half-written in place of the output.

        Returns where the records written so far were put aside, if they were, for the message to the user.
        """


class SyncedWriter(Writer):
    """Of a sink that says ``safe = "at_sync"``: what it wrote can be made safe while it goes on writing."""

    @abstractmethod
    def sync(self) -> Any:
        """Make safe on the disk what was written so far, and return the place, plain data, from which `Sink.open` can
        go on after the process was killed."""


class Writable(ABC):
    """What `Stream.write` takes: a `Sink`, or a description (a file, say) that can be read and also be written.

    `Source` and `Sink` both have `check` and `open`, which mean different things, so one object cannot be both.
    """

    @abstractmethod
    def sink(self) -> Sink:
        """The sink that writes to this place. Touches nothing."""


class Sink(Writable):
    """A description of where records go: plain data, picklable, opened where it runs."""

    idempotent: ClassVar[bool] = False
    """True if a record written twice with the same rid has one effect."""
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_commit"
    """When a record that was written survives the death of the process: only after `Writer.commit`, after
    `SyncedWriter.sync` (then an output that is committed has it once), or when `Writer.write` has returned (then it
    must be `idempotent`, or the record may come again). The first kind cannot be used with a job directory."""

    def sink(self) -> Sink:
        return self

    @abstractmethod
    def check(self) -> None:
        """Raise `SinkError` if it can be known now that writing will fail (read-only folder, ...). Leaves no trace."""

    @abstractmethod
    def open(self, context: SinkContext) -> Writer:
        """Get ready to write. One writer per run."""
