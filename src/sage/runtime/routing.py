"""Connections: how a batch leaves a task. Within a host one ends in the inbox of the target, else in a queue."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from numbers import Number
from typing import Any, Generic, TypeVar
from zlib import crc32

from sage.record import Batch
from sage.runtime.inbox import Entry, Inbox
from sage.runtime.ledger import Ledger
from sage.runtime.load import BufferLoad, LoadHistory

E = TypeVar("E", bound=Entry)


class Connection(Generic[E]):
    """From one worker to all instances of a task: they share an inbox, or each has its own and gets its keys."""

    def __init__(self, inboxes: Sequence[E], ledger: Ledger, *, keyed: bool, keeps_keys: bool) -> None:
        self._inboxes = inboxes
        self._ledger = ledger
        self._keyed = keyed
        self._keeps_keys = keeps_keys
        self._history = LoadHistory()

    def get_buffer_load(self) -> BufferLoad:
        """How full its target is (the fullest of several), and where that is going; from any thread."""
        return self._history.load(self._fill())

    def push(self, batch: Batch) -> None:
        """Hand `batch` over; waits while the target has no room. Raises `Aborted`."""
        for inbox, part in self.split(batch):
            inbox.put(part)

    def finish(self) -> None:
        for inbox in self._inboxes:
            inbox.producer_done()

    def split(self, batch: Batch) -> list[tuple[E, Batch]]:
        """The parts of `batch` and where each goes. What its worker did is published before they leave."""
        self._ledger.publish()
        self._history.see(time.monotonic(), self._fill())
        if not self._keyed:
            if batch.keys is not None and not self._keeps_keys:
                batch = Batch(batch.records, batch.lineage)
            return [(self._inboxes[0], batch)]
        targets = [stable_hash(key) % len(self._inboxes) for key in batch.keys or ()]
        parts = []
        for index in sorted(set(targets)):
            mask = [target == index for target in targets]
            parts.append((self._inboxes[index], batch.select(mask)))
        return parts

    def _fill(self) -> float:
        return max(inbox.fill for inbox in self._inboxes)


class EventLoopConnection:
    """A connection whose worker must not wait: what the target has no room for is kept, and `on_clear` is called
    (from any thread) when it may be worth calling `retry`. Its owner makes nothing new while `blocked`."""

    def __init__(self, connection: Connection[Inbox], on_clear: Callable[[], None]) -> None:
        self._connection = connection
        self._on_clear = on_clear
        self._backlog: deque[tuple[Inbox, Batch]] = deque()
        self._finished = False

    @property
    def blocked(self) -> bool:
        return bool(self._backlog)

    def push(self, batch: Batch) -> None:
        self._backlog.extend(self._connection.split(batch))
        self.retry()

    def retry(self) -> None:
        while self._backlog and self._backlog[0][0].offer(self._backlog[0][1], self._on_clear):
            self._backlog.popleft()
        if self._finished and not self._backlog:
            self._finished = False
            self._connection.finish()

    def finish(self) -> None:
        self._finished = True
        self.retry()


def stable_hash(key: Hashable) -> int:
    """The same in every process and run (Python salts its own hash of text)."""
    return crc32(_spelled(key).encode("utf-8", "surrogatepass"))


def _spelled(key: Any) -> str:
    """Equal keys are spelled alike: 1, 1.0, True and Decimal(1) are one key of a dict, so they are one key here."""
    if isinstance(key, Number):
        return f"number:{hash(key)}"  # equal for equal numbers of all types, and not salted
    if isinstance(key, str):
        return f"text:{str.__str__(key)}"
    if isinstance(key, tuple):
        return "(" + ",".join(map(_spelled, key)) + ")"
    if isinstance(key, frozenset):
        return "{" + ",".join(sorted(map(_spelled, key))) + "}"
    return f"{type(key).__name__}:{key!r}"
