"""The address of a queue as plain data, and the registry of its kinds.

A kind is one file: a frozen dataclass derived from `QueueDescriptor`, decorated with `register_kind`, that says what it
costs, between which places it reaches, and how its queue is made and attached to.
"""

from __future__ import annotations

import json
import os
import re
import socket
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from sage.errors import QueueError
from sage.queues import handles
from sage.queues.queue import Queue

VERSION = 1
MAX_JSON_BYTES = 64 * 1024
MAX_CAPACITY = 2**31 - 1
RESERVED_PREFIX = "_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KINDS: dict[str, type[QueueDescriptor]] = {}

Kind = TypeVar("Kind", bound="type[QueueDescriptor]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an end of a queue is: a machine, and a process on it."""

    machine: str
    process: int

    @classmethod
    def here(cls) -> Place:
        """This process."""
        return cls(socket.gethostname(), os.getpid())


def new_queue_id() -> str:
    """An id that nobody else has."""
    return f"q-{os.urandom(8).hex()}"


@dataclass(frozen=True, kw_only=True)
class QueueDescriptor(ABC):
    """What is needed to reach a queue: frozen, hashable, picklable, the same after a round trip through JSON.

    It holds no live object. The handles that a process has open are in a table of the process, by kind and id.
    """

    kind: ClassVar[str]
    cost: ClassVar[int]
    """Orders the kinds where several would do: the lowest is taken."""
    leaves_process: ClassVar[bool] = True
    """Whether another process can open it."""

    queue_id: str = field(default_factory=new_queue_id)
    maxsize: int | None = 10_000
    """How many items fit. None: any number, on request."""
    adaptive: bool = True
    """That of new handles, where single items are gathered underneath."""

    def __post_init__(self) -> None:
        check_name(self.queue_id)
        if self.maxsize is not None:
            check_capacity("maxsize", self.maxsize, at=f"queue {self.queue_id}")
        if type(self.adaptive) is not bool:
            raise QueueError("E522", "adaptive is not possible", at="$.adaptive", expected="true or false")

    @classmethod
    @abstractmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        """Why this kind cannot join these two places, as part of a sentence; None if it can."""

    @abstractmethod
    def _make(self) -> Queue[Any]:
        """A new queue, owned by this process. Raises `QueueError` E503 where it exists."""

    @abstractmethod
    def _attach(self) -> Queue[Any]:
        """A handle to a queue that exists. Raises `QueueError` E504 where it does not."""

    def create(self) -> Queue[Any]:
        """Make the queue: once, at its owner. Raises E503 where a queue of this id exists."""
        return handles.create(self, lambda: self._set_up(self._make()))

    def open(self) -> Queue[Any]:
        """The handle of this process: the one it has, or a new one. Raises E504 if the queue does not exist."""
        return handles.open_(self, lambda: self._set_up(self._attach()))

    def _set_up(self, queue: Queue[Any]) -> Queue[Any]:
        queue.adaptive = self.adaptive
        return queue

    @property
    def queue_instance(self) -> Queue[Any]:
        """The handle of this process. A queue that does not exist yet is created, and this process is its owner."""
        try:
            return self.open()
        except QueueError as error:
            if error.code != "E504":
                raise
        try:
            return self.create()
        except QueueError as error:
            if error.code != "E503":
                raise
        return self.open()  # somebody else was quicker

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"version": VERSION, "kind": self.kind, **asdict(self)}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The descriptor that `to_dict` described. Raises `QueueError`, E52x where it is not one at all."""
        kind, values = _checked(data)
        if not issubclass(kind, cls):
            raise QueueError("E521", "the descriptor is of another kind", at="$.kind", got=kind.kind, expected=cls.kind)
        return kind(**values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The descriptor that `to_json` wrote."""
        return cls.from_dict(parse_json(text, MAX_JSON_BYTES))

    def missing(self, why: str) -> QueueError:
        """What `open` raises where there is no such queue."""
        return QueueError("E504", f"there is no such {self.kind} queue: {why}", at=f"queue {self.queue_id}")


def register_kind(kind: Kind) -> Kind:
    """Make a kind known to `from_dict` and to the strategy. Raises E521 if the name is taken."""
    if kind.kind in _KINDS:
        raise QueueError("E521", "the kind of queue is registered already", got=kind.kind)
    _KINDS[kind.kind] = kind
    return kind


def kinds() -> list[type[QueueDescriptor]]:
    """Every known kind, the cheapest first."""
    return sorted(_KINDS.values(), key=lambda kind: kind.cost)


def check_name(name: Any) -> None:
    """Raise E501 unless `name` may name a queue."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reserved = isinstance(name, str) and name.startswith(RESERVED_PREFIX)
        raise QueueError(
            "E501",
            "the queue's name is reserved" if reserved else "the queue's name is not possible",
            got=repr(name) if name == "" else name,
            expected="1 to 64 of A-Z a-z 0-9 . _ - that begin with a letter or digit",
        )


def check_capacity(name: str, value: Any, *, at: str) -> None:
    """Raise E502 unless `value` is a number of items or bytes."""
    if type(value) is not int or not 1 <= value <= MAX_CAPACITY:
        raise QueueError("E502", f"{name} is not possible", at=at, got=value, expected=f"1 to {MAX_CAPACITY:,}")


def parse_json(text: Any, max_bytes: int) -> Any:
    """JSON whose objects have each key once. Raises E520 for anything else."""
    if not isinstance(text, str | bytes) or len(text) > max_bytes:
        size = len(text) if isinstance(text, str | bytes) else type(text).__name__
        raise QueueError(
            "E520", "this is no queue descriptor", got=size, expected=f"at most {max_bytes:,} bytes of JSON"
        )
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise QueueError("E520", f"this is no queue descriptor ({error})", got=text[:200], expected="JSON") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _checked(data: Any) -> tuple[type[QueueDescriptor], dict[str, Any]]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise QueueError("E520", "this is no queue descriptor", got=data, expected="an object")
    values = dict(data)
    version, kind_name = values.pop("version", None), values.pop("kind", None)
    if type(version) is not int or version != VERSION:
        raise QueueError("E524", "a descriptor of another version", at="$.version", got=version, expected=str(VERSION))
    kind = _KINDS.get(kind_name) if isinstance(kind_name, str) else None
    if kind is None:
        known = ", ".join(sorted(_KINDS))
        raise QueueError("E521", "the kind of queue is unknown", at="$.kind", got=kind_name, expected=f"one of {known}")
    names = {entry.name for entry in fields(kind)}
    if names != set(values):
        wrong = sorted(names ^ set(values))
        what = "a field is unknown" if wrong[0] in values else "a field is missing"
        raise QueueError("E522", what, at=f"$.{wrong[0][:64]}", expected=", ".join(sorted(names)))
    return kind, values
