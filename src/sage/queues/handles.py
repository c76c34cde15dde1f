"""The queues that this process has open: one handle for each kind and id."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sage.errors import QueueError
from sage.queues.exclusive import Exclusive
from sage.queues.queue import Queue


class Address(Protocol):
    """What a handle is found by."""

    @property
    def kind(self) -> str: ...

    @property
    def queue_id(self) -> str: ...

    @property
    def leaves_process(self) -> bool: ...


_open: dict[tuple[str, str], tuple[Address, Queue[Any]]] = {}
_underway: dict[tuple[str, str], Address] = {}  # being made or opened
_exclusive = Exclusive()
_lock = threading.RLock()
_to_tell: list[Callable[[], None]] = []


def create(address: Address, make: Callable[[], Queue[Any]]) -> Queue[Any]:
    """The queue that `make` makes. Raises E503 where this process has one of this id."""
    with _alone(address):
        if find(address) is not None:
            raise QueueError("E503", f"this {address.kind} queue exists already", at=f"queue {address.queue_id}")
        return _keep(address, make())


def open_(address: Address, attach: Callable[[], Queue[Any]]) -> Queue[Any]:
    """The handle this process has, or the one that `attach` brings."""
    with _alone(address):
        return find(address) or _keep(address, attach())


def find(address: Address) -> Queue[Any] | None:
    """The handle this process has, if any. Raises E503 if a different queue of this id is open."""
    known, queue = _open.get((address.kind, address.queue_id), (None, None))
    if known is not None and known != address:
        raise QueueError(
            "E503",
            "another queue of this id is open in this process",
            at=f"queue {address.queue_id}",
            got=address,
            expected=str(known),
        )
    return queue


def forget(queue: Queue[Any]) -> None:
    """Drop a handle that was given up."""
    with _lock:
        for key in [key for key, (_, held) in _open.items() if held is queue]:
            del _open[key]
        _tell()


def addresses() -> list[Address]:
    """Of every handle that this process has, or is about to have."""
    return [*_underway.copy().values(), *(address for address, _ in opened())]


def opened() -> list[tuple[Address, Queue[Any]]]:
    """Every handle that this process has at this moment."""
    return list(_open.values())


def when_changed(call: Callable[[], None]) -> None:
    """Have `call` called after each change of the table, which is locked meanwhile: it must be quick."""
    _to_tell.append(call)


@contextmanager
def _alone(address: Address) -> Iterator[None]:
    """This thread makes or opens the handle, which may take long: nobody else is held up but who wants the same one."""
    key = address.kind, address.queue_id
    with _exclusive.take(key):
        _underway[key] = address
        try:
            yield
        finally:
            _underway.pop(key, None)


def _keep(address: Address, queue: Queue[Any]) -> Queue[Any]:
    with _lock:
        _open[address.kind, address.queue_id] = address, queue
        _tell()
    return queue


def _tell() -> None:
    for call in _to_tell:
        call()


def _forget_in_child() -> None:
    """A forked child has copies of handles that are not its own."""
    global _lock  # noqa: PLW0603 -- another thread may have held it when the process forked
    _lock = threading.RLock()
    _open.clear()
    _underway.clear()


os.register_at_fork(after_in_child=_forget_in_child)
