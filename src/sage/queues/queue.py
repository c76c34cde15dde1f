"""The queue: one contract for every kind, with the behaviour of the standard library's `queue.Queue`."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from sage.errors import QueueClosed, QueueError

Full = queue.Full
Empty = queue.Empty
Item = TypeVar("Item")

DEFAULT_BATCH_SIZE = 100
DEFAULT_LINGER_MS = 2.0


class BatchFull(Full):
    """There was no room for a whole batch in time. `items` holds the rest, in order; what came before it was put."""

    def __init__(self, items: Sequence[object]) -> None:
        self.items = items
        super().__init__(f"no room for {len(items)} items of the batch")


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a queue, seen from one handle, did since it was opened."""

    total_puts: int
    total_gets: int
    batch_puts: int
    batch_gets: int
    avg_batch_size: float
    """Items per `put_batch`; 0 if there was none."""
    pending_batches: int
    """Batches on their way that have not arrived."""
    buffer_size: int
    """Items that wait in this process to be sent."""
    bytes_in: int
    """Bytes put; 0 where items are passed by reference."""
    bytes_out: int
    put_wait_s: float
    """Time spent waiting for room, by all threads."""
    get_wait_s: float
    """Time spent waiting for items, by all threads."""
    depth: int
    """Items in the queue now."""


class Settings(Protocol):
    """What the user may change while a queue runs, as its parts see it."""

    @property
    def batch_size(self) -> int: ...

    @property
    def linger_ms(self) -> float: ...

    @property
    def adaptive(self) -> bool: ...


class Queue(ABC, Generic[Item]):
    """A channel from many producers to many consumers. Every method may be called from any thread.

    `put` and `get` behave as those of `queue.Queue`, `Full` and `Empty` included. Items of one producer arrive in
    the order they were put. A queue that was closed raises `QueueClosed`: for a put at once, for a get when nothing is
    left. Where the other end is a process that died, whoever would wait for it gets `QueueBroken`.
    """

    def __init__(self) -> None:
        self._batch_size = DEFAULT_BATCH_SIZE
        self._linger_ms = DEFAULT_LINGER_MS
        self._adaptive = True

    @property
    def batch_size(self) -> int:
        """How many items are sent together at most, where single items are gathered underneath; 1: each at once.

        To other machines more of them, if the queue is adaptive and they are put within a millisecond.
        """
        return self._batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        if type(size) is not int or size < 1:
            raise QueueError("E502", "batch_size is not possible", got=size, expected="a whole number from 1")
        self._batch_size = size

    @property
    def linger_ms(self) -> float:
        """How long a single item may wait in its process for company, where single items are gathered underneath."""
        return self._linger_ms

    @linger_ms.setter
    def linger_ms(self, linger_ms: float) -> None:
        if not 0 <= linger_ms < float("inf"):
            raise QueueError("E502", "linger_ms is not possible", got=linger_ms, expected="milliseconds from 0")
        self._linger_ms = linger_ms

    @property
    def adaptive(self) -> bool:
        """Whether frames follow sizes, load and pauses; else single items wait for `batch_size` or `linger_ms`."""
        return self._adaptive

    @adaptive.setter
    def adaptive(self, adaptive: bool) -> None:
        self._adaptive = adaptive

    @property
    @abstractmethod
    def maxsize(self) -> int | None:
        """How many items fit; None: any number."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether puts are refused. Items may be left to get."""

    @abstractmethod
    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        """Add `item`; with `block`, wait for room, at most `timeout` seconds. Raises `Full` or `QueueClosed`."""

    @abstractmethod
    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        """Add all `items`, in order, as room allows: a batch may be larger than the queue.

        Raises `BatchFull`, `QueueClosed` or `QueueBroken`; its `items` are those that were not put.
        """

    @abstractmethod
    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """Take the next item; with `block`, wait at most `timeout` seconds. Raises `Empty` or `QueueClosed`."""

    @abstractmethod
    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        """Wait for one item, at most `timeout` seconds, then take what is there up to `count`: never an empty list."""

    @abstractmethod
    def qsize(self) -> int:
        """How many items were put and not got. Others may change it at any time."""

    @abstractmethod
    def get_stats(self) -> QueueStats:
        """A snapshot of the figures."""

    @abstractmethod
    def close(self) -> None:
        """End the queue: no more puts, by anybody. What is in it can still be got. Closing again does nothing."""

    @abstractmethod
    def detach(self) -> None:
        """Give up this process's handle and what it holds; the queue goes on for others.

        What waits here to be sent is sent before; where that is not possible within about a second, a kind that gathers
        raises `QueueError` E515 with the number of items that are lost.
        A queue that lives in this process alone is closed by it.
        """

    def put_nowait(self, item: Item) -> None:
        """`put` that raises `Full` rather than wait."""
        self.put(item, False)

    def get_nowait(self) -> Item:
        """`get` that raises `Empty` rather than wait."""
        return self.get(False)

    def empty(self) -> bool:
        """Whether nothing is in the queue. Others may change it at any time."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether `maxsize` items are in the queue. Others may change it at any time."""
        return self.maxsize is not None and self.qsize() >= self.maxsize

    def flush(self, timeout: float | None = None) -> None:
        """Send what waits in this process. Nothing does, unless a kind says otherwise: nobody has to call it."""

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        """Wait until everything that this process put is in the queue; False if `timeout` seconds did not suffice."""
        return True

    def __iter__(self) -> Iterator[Item]:
        """Items until the queue is closed and nothing is left."""
        while True:
            try:
                item = self.get()
            except QueueClosed:
                return
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def deadline_of(timeout: float | None, now: float) -> float | None:
    """The moment at which a wait that begins `now` is over. Raises what `queue.Queue` raises."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return now + timeout


def closed_error(queue_id: str, items: Sequence[object] = ()) -> QueueClosed:
    """What a put to, or a get at the end of, a closed queue raises."""
    error = QueueClosed("E505", "the queue is closed", at=f"queue {queue_id}")
    error.items = items
    return error
