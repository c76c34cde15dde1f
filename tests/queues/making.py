"""Queues made for one test, of which nothing is left after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sage.queues import Queue, QueueDescriptor

Kind = TypeVar("Kind", bound=QueueDescriptor)
Handle = TypeVar("Handle", bound=Queue[Any])
Make = Callable[..., tuple[Kind, Handle]]


def made(kind: type[Kind], handle: type[Handle], path_of: Callable[[Kind], Path]) -> Iterator[Make[Kind, Handle]]:
    """For a fixture: makes queues of `kind`; afterwards they are closed, and their files have to be gone."""
    queues: list[tuple[Kind, Handle]] = []

    def make(**fields: Any) -> tuple[Kind, Handle]:
        descriptor = kind(**fields)
        queue = descriptor.create()
        assert isinstance(queue, handle)
        queues.append((descriptor, queue))
        return descriptor, queue

    yield make
    for descriptor, queue in queues:
        queue.close()
        queue.detach()
        assert not path_of(descriptor).exists()
