"""What the driver and its hosts say to one another, and the links that carry it."""

from __future__ import annotations

import socket
import struct
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeAlias

from sage.clock import Clock
from sage.flow.graph import ExecutionGraph
from sage.flow.shipping import pack, unpack
from sage.queues import Queue
from sage.runtime.deadletters import reason_of
from sage.runtime.durable import Branch, FarBranch, Question
from sage.runtime.load import BufferLoad
from sage.runtime.placement import Placement
from sage.runtime.stats import StepStats
from sage.runtime.suspects import Try, Watch

AT_ONCE_PARTS = 16
"""Of a message: written to a socket in one call."""
LONGEST_CHAIN = 8
"""Causes of an error that are sent along at most."""


Parcel: TypeAlias = tuple[bytes, Sequence[Any]]
"""What `pack` made, on its way."""


class Way(Protocol):
    """The description of a queue between hosts: plain data, which every host is sent."""

    def open(self) -> Queue[Any]:
        """This process's handle. Raises `QueueError`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all hosts of a run are told first."""

    graph: ExecutionGraph
    placement: Placement
    run_id: str
    queues: Mapping[str, Sequence[Way]]
    """By task that is fed from elsewhere: one, or one per instance if keyed."""
    clock: Clock
    watch: Watch | None
    """The run has lost a host before."""
    journal: Branch | FarBranch | None
    """Of the job, if the run has a directory."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a host: which it is, and the packed `Plan`."""

    number: int
    search_path: Sequence[str]
    """Where the driver finds modules."""
    folder: str
    """Where it runs."""
    settings: Mapping[str, str]
    """SAGE's own variables of its environment."""
    plan: Parcel


@dataclass(frozen=True, slots=True)
class Trying:
    """A worker that is watched begins with a record, or is done with all that it had."""

    host: int
    worker: str
    attempt: Try | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A host asks the driver something about the job directory; without a number, it wants no answer."""

    host: int
    number: int | None
    question: Question


@dataclass(frozen=True, slots=True)
class Answer:
    """The driver's answer; an exception is to be raised."""

    number: int
    value: object


class Command(Enum):
    """What the driver tells a host."""

    GO = "every host has opened everything: begin"
    STOP = "park nothing any more, finish what is in flight"
    ABORT = "end at once"


@dataclass(frozen=True, slots=True)
class Close:
    """The run is over: wait so long for workers that have not ended, tell what is left to tell, and go."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """All workers of a task in this host have ended well."""

    host: int
    task: str


@dataclass(frozen=True, slots=True)
class HostEnded:
    """All workers of a host have ended, or one of them failed."""

    host: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a host, from its beginning."""

    host: int
    steps: Mapping[str, Sequence[StepStats]]
    traffic: Mapping[str, int]
    """By task that is fed from elsewhere: records put by this host less those taken by it."""
    loads: Mapping[str, BufferLoad] = field(default_factory=dict)
    """By task: how full what its producers here put into is."""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Printed:
    """What a step printed, where a host has no terminal of its own."""

    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The last message of a host; `stuck` are the workers that had not ended."""

    host: int
    stuck: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lost:
    """The link to a host ended; what the system says about its end."""

    host: int
    why: str


def name_of(host: int) -> str:
    """What a host is called where workers have names."""
    return f"host {host}"


class Link(Protocol):
    """Carries messages both ways, in order. One thread receives; any may send."""

    def send(self, message: object) -> None:
        """Raises OSError when the other end is gone."""

    def receive(self) -> Any:
        """The next message, or None when the other end is gone. Raises what unpickling raises."""

    def flush(self) -> None:
        """Wait until what was sent will be received, whatever becomes of this process. Raises OSError."""

    def shut(self) -> None:
        """The other end is gone: `receive` comes to its end, after what has come."""

    def close(self) -> None:
        """Give it up; nobody uses it any more."""


class SocketLink:
    """A link over a connected socket."""

    why = ""
    """Nothing is known of its end but that it came."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._incoming = end.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        data, buffers = pack(message)
        parts: list[memoryview] = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        header = struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts))
        parts.insert(0, memoryview(header))
        with self._sending:
            sent = self._socket.sendmsg(parts[:AT_ONCE_PARTS])
            for part in parts:
                if sent < part.nbytes:
                    self._socket.sendall(part.cast("B")[sent:])
                sent = max(0, sent - part.nbytes)

    def receive(self) -> Any:
        try:
            (count,) = struct.unpack("<Q", self._read(8))
            sizes = struct.unpack(f"<{count}Q", self._read(8 * count))
            data, *buffers = [self._read(size) for size in sizes]
        except OSError:
            return None
        return unpack(bytes(data), buffers)

    def flush(self) -> None:
        """The kernel has it."""

    def shut(self) -> None:  # a process that the other end started may have inherited it
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._incoming.close()
        self._socket.close()

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        if self._incoming.readinto(data) < size:
            raise ConnectionResetError("the other end is gone")
        return data


class FarError(Exception):
    """Stands for an exception that cannot be sent: its type and message."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way: itself and its causes where they can be sent, and the traceback as text."""

    chain: Sequence[BaseException]
    told: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Everything of `error` that can be sent."""
        chain: list[BaseException] = []
        following: BaseException | None = error
        while following is not None and len(chain) < LONGEST_CHAIN:
            chain.append(_sendable(following))
            following = following.__cause__
        return cls(chain, "".join(traceback.format_exception(error)))

    def error(self) -> BaseException:
        """The exception again; what it was raised through is a note to it."""
        for error, cause in zip(self.chain, self.chain[1:], strict=False):
            error.__cause__ = cause
        first = self.chain[0]
        first.add_note(f"In another process:\n{self.told}")
        return first


def _sendable(error: BaseException) -> BaseException:
    try:
        unpack(*pack(error))
    except Exception:  # noqa: BLE001 -- anything can go wrong in the __reduce__ or __init__ of a user's exception
        return FarError(reason_of(error) if isinstance(error, Exception) else repr(error))
    return error
