"""A queue between threads that is bounded in bytes too."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import length_hint
from sys import getsizeof

from sage.errors import QueueError
from sage.queues.bells import ring, ring_one
from sage.queues.frames import Frame
from sage.queues.local import LocalQueue
from sage.queues.queue import DEFAULT_BATCH_SIZE, BatchFull, Full, Item
from sage.queues.sizes import LEAVES, size_of


class Sizes:
    """The bytes of items in their order. Those of one frame are one entry. Not locked."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int]] = deque()  # how many items, of how many bytes each
        self.count = 0

    def append(self, size: int, count: int = 1) -> None:
        """The next `count` items have `size` bytes each."""
        self._runs.append((count, size))
        self.count += count

    def take(self, count: int) -> int:
        """Forget the first `count` items, or all; returns their bytes."""
        return sum(times * size for times, size in self.moved(count))

    def moved(self, count: int, *, last: bool = False) -> list[tuple[int, int]]:
        """Take away the first `count` items, or the last, or all, as runs in the order in which they were taken."""
        runs = self._runs
        taken = []
        count = min(count, self.count)
        self.count -= count
        while count:
            times, size = runs.pop() if last else runs.popleft()
            if times > count:
                (runs.append if last else runs.appendleft)((times - count, size))
                times = count
            taken.append((times, size))
            count -= times
        return taken

    def extend(self, runs: Iterable[tuple[int, int]]) -> None:
        """Add `runs` at the end."""
        for times, size in runs:
            self.append(size, times)

    def extendleft(self, runs: Iterable[tuple[int, int]]) -> None:
        """Add `runs` at the beginning, one before the other."""
        for run in runs:
            self._runs.appendleft(run)
            self.count += run[0]


class MeasuredQueue(LocalQueue[Item]):
    """A `LocalQueue` whose items together take at most `max_bytes`, by `size_of`. That costs some speed.

    An item that would never fit is refused with E509; those of its batch that came before it are put.
    """

    def __init__(self, maxsize: int | None, max_bytes: int, *, queue_id: str = "local") -> None:
        super().__init__(maxsize, queue_id=queue_id)
        self._max_bytes = max_bytes
        self._sizes = Sizes()  # of the items that are here
        self._away = Sizes()  # of those that left for other processes
        self._bytes = 0
        self._wanted = 0  # by the item that was put in vain last
        self._bytes_in = 0  # ever

    @property
    def bytes_in(self) -> int:
        return self._bytes_in

    @property
    def bytes_out(self) -> int:
        return self._bytes_in - self._bytes

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        size = getsizeof(item) if type(item) in LEAVES else size_of(item)
        with self._lock:
            total = self._bytes + size
            if total <= self._max_bytes and self._takes_credit():
                self._sizes.append(size)
                self._bytes = total
                self._bytes_in += size
                self._append(item)
                if self._getters:
                    ring_one(self._getters)
                return
        try:
            self._put_rest([item], block, timeout)
        except BatchFull:
            raise Full from None

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        rest = list(items)
        with self._lock:
            self._batch_puts += 1
            self._batch_items += len(rest)
        self._put_rest(rest, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        try:
            item = self._pop()
        except IndexError:
            item = self._wait_for_items(self._take_item, block, timeout)[0]
        with self._lock:
            self._bytes -= self._sizes.take(1)
        if self._putters:
            ring(self._putters, len(self._putters))
        return item

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        items = super().get_batch(count, timeout)
        self._gone(len(items))
        return items

    @property
    def max_bytes(self) -> int | None:
        return self._max_bytes

    def free_bytes(self) -> int:
        return self._max_bytes - self._bytes

    def confirm(self, count: int) -> None:
        with self._lock:
            self._bytes -= self._away.take(count)
        super().confirm(count)

    def _gone(self, count: int) -> None:
        """So many items were got."""
        with self._lock:
            self._bytes -= self._sizes.take(count)
        ring(self._putters, len(self._putters))

    def _has_room(self) -> bool:
        return super()._has_room() and self._bytes + self._wanted <= self._max_bytes

    # --- under the lock ---

    def _lend(self, count: int) -> list[Item]:
        items = super()._lend(count)
        self._away.extend(self._sizes.moved(len(items)))
        return items

    def _take_in(self, items: list[Item]) -> None:
        self._sizes.extendleft(self._away.moved(len(items), last=True))
        super()._take_in(items)

    def _takes_credit(self) -> bool:
        for _ in self._room:
            return True
        return self._closed_at is None and self._take_credit() > 0

    def _put_some(self, items: list[Item]) -> int:
        sizes: list[int] = []
        free = self._max_bytes - self._bytes
        for item in items[: max(0, self._spare() + length_hint(self._room))]:
            size = getsizeof(item) if type(item) in LEAVES else size_of(item)
            if size > self._max_bytes and not sizes:
                raise self._too_large(size)
            if size > free:
                self._wanted = size
                break
            free -= size
            sizes.append(size)
        taken = super()._put_some(items[: len(sizes)])
        for size, run in groupby(sizes[:taken]):
            self._account(size, len(list(run)))
        return taken

    def _accept(self, frame: Frame, items: list[Item]) -> bool:
        size = frame.size_bytes
        if size > self._max_bytes:
            raise self._too_large(size)
        if self._bytes + size > self._max_bytes:
            return False
        each, rest = divmod(size, len(items))
        self._account(each + rest, 1)
        if len(items) > 1:
            self._account(each, len(items) - 1)
        return super()._accept(frame, items)

    def _account(self, size: int, count: int) -> None:
        self._sizes.append(size, count)
        self._bytes += size * count
        self._bytes_in += size * count

    def _too_large(self, size: int) -> QueueError:
        what = "the item is larger than max_bytes"
        return QueueError("E509", what, at=f"queue {self._queue_id}", got=f"{size:,} bytes")
