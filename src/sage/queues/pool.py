"""The descriptors of a job, as one document that every host gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from sage.errors import QueueError
from sage.queues import handles
from sage.queues.descriptor import VERSION, Place, QueueDescriptor, parse_json
from sage.queues.strategy import CheapestKind, QueueCreationStrategy

MAX_POOL_BYTES = 16 * 1024 * 1024
_ANOTHER_PROCESS = -1


@dataclass(frozen=True)
class QueueDescriptorPool(Mapping[str, QueueDescriptor]):
    """Descriptors by name, for example the name of an edge. Frozen, like the descriptors."""

    descriptors: Mapping[str, QueueDescriptor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "descriptors", MappingProxyType(dict(self.descriptors)))

    def __getitem__(self, name: str) -> QueueDescriptor:
        return self.descriptors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.descriptors)

    def __len__(self) -> int:
        return len(self.descriptors)

    def __hash__(self) -> int:
        return hash(frozenset(self.descriptors.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return QueueDescriptorPool, (dict(self.descriptors),)

    def for_other_processes(self, strategy: QueueCreationStrategy | None = None) -> QueueDescriptorPool:
        """The same queues, reachable from other processes of this machine.

        A descriptor that cannot leave its process is replaced by one of the same id and capacity, in items and bytes,
        that can. Raises `QueueError` E523 where its queue is open already: items may be in it.
        """
        chosen = strategy or CheapestKind()
        return QueueDescriptorPool({name: _for_others(name, self[name], chosen) for name in self})

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"version": VERSION, "queues": {name: queue.to_dict() for name, queue in self.items()}}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Any) -> QueueDescriptorPool:
        """The pool that `to_dict` described. Raises `QueueError` E52x that names the queue at fault."""
        if not isinstance(data, dict) or data.keys() != {"version", "queues"} or not isinstance(data["queues"], dict):
            raise QueueError("E520", "this is no pool of descriptors", got=data, expected="version and queues")
        if type(data["version"]) is not int or data["version"] != VERSION:
            raise QueueError("E524", "a pool of another version", got=data["version"], expected=str(VERSION))
        return cls({name: _named(name, entry) for name, entry in data["queues"].items()})

    @classmethod
    def from_json(cls, text: str | bytes) -> QueueDescriptorPool:
        """The pool that `to_json` wrote."""
        return cls.from_dict(parse_json(text, MAX_POOL_BYTES))


def _named(name: Any, entry: Any) -> QueueDescriptor:
    if not isinstance(name, str):
        raise QueueError("E520", "a queue of the pool has no name", got=name)
    try:
        return QueueDescriptor.from_dict(entry)
    except QueueError as error:
        place = f"$.queues.{name[:64]}{(error.at or '').removeprefix('$')}"
        raise QueueError(error.code, error.what, at=place, got=error.got, expected=error.expected) from error


def _for_others(name: str, descriptor: QueueDescriptor, strategy: QueueCreationStrategy) -> QueueDescriptor:
    if descriptor.leaves_process:
        return descriptor
    if handles.find(descriptor) is not None:
        raise QueueError(
            "E523",
            f"the {descriptor.kind} queue cannot be reached from another process, and it is in use in this one",
            at=f"queue {descriptor.queue_id} ({name})",
            try_="call for_other_processes() before the queue is opened, or choose a kind that reaches further",
        )
    here = Place.here()
    elsewhere = replace(here, process=_ANOTHER_PROCESS)
    values = {entry.name: getattr(descriptor, entry.name) for entry in fields(descriptor)}
    given = {name: value for name, value in values.items() if value is not None or name == "maxsize"}
    return strategy.choose(here, elsewhere, **given).descriptor
