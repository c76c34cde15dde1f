"""A handle that stands before another queue, its core, which may be exchanged for another one."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence

from sage.errors import QueueBroken, QueueClosed
from sage.queues.queue import DEFAULT_BATCH_SIZE, Item, Queue, QueueStats, deadline_of


class Front(Queue[Item]):
    """What kinds have in common that choose the way to a queue while it is used."""

    def __init__(self, core: Queue[Item]) -> None:
        self._core = core
        super().__init__()

    @abstractmethod
    def _follow(self, core: Queue[Item], error: QueueClosed | QueueBroken) -> None:
        """A call on `core` ended with `error`. Return if it is to be repeated on the core of now, else raise."""

    @property
    def core(self) -> Queue[Item]:
        """The queue behind it at this moment."""
        return self._core

    @property
    def batch_size(self) -> int:
        return self._core.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._core.batch_size = size

    @property
    def linger_ms(self) -> float:
        return self._core.linger_ms

    @linger_ms.setter
    def linger_ms(self, linger_ms: float) -> None:
        self._core.linger_ms = linger_ms

    @property
    def adaptive(self) -> bool:
        return self._core.adaptive

    @adaptive.setter
    def adaptive(self, adaptive: bool) -> None:
        self._core.adaptive = adaptive

    @property
    def maxsize(self) -> int | None:
        return self._core.maxsize

    @property
    def closed(self) -> bool:
        return self._core.closed

    def qsize(self) -> int:
        return self._core.qsize()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        deadline = None if timeout is None else deadline_of(timeout, time.monotonic())
        while True:
            core = self._core
            try:
                core.put(item, block, timeout)
                return
            except (QueueClosed, QueueBroken) as error:
                self._follow(core, error)
            timeout = _left(deadline)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        deadline = None if timeout is None else deadline_of(timeout, time.monotonic())
        while True:
            core = self._core
            try:
                return core.get(block, timeout)
            except (QueueClosed, QueueBroken) as error:
                self._follow(core, error)
            timeout = _left(deadline)

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        deadline = None if timeout is None else deadline_of(timeout, time.monotonic())
        rest = items
        while True:
            core = self._core
            try:
                core.put_batch(rest, block, timeout)
                return
            except (QueueClosed, QueueBroken) as error:
                self._follow(core, error)
                rest = error.items  # type: ignore[assignment]  # they are some of ours
            timeout = _left(deadline)

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        deadline = None if timeout is None else deadline_of(timeout, time.monotonic())
        while True:
            core = self._core
            try:
                return core.get_batch(count, timeout)
            except (QueueClosed, QueueBroken) as error:
                self._follow(core, error)
            timeout = _left(deadline)

    def flush(self, timeout: float | None = None) -> None:
        self._core.flush(timeout)

    def wait_for_pending_puts(self, timeout: float | None = None) -> bool:
        return self._core.wait_for_pending_puts(timeout)

    def get_stats(self) -> QueueStats:
        return self._core.get_stats()

    def close(self) -> None:
        self._core.close()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
