"""The putting half of a queue in shared memory, but for what is quickest: single items that find a place reserved."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sage.errors import QueueError
from sage.queues.frames import LARGE_BYTES, PLAIN, Frame, Frozen, pack, pack_list, pack_many
from sage.queues.gathering import Gathering
from sage.queues.queue import BatchFull, Full, Settings, deadline_of
from sage.queues.ring import Ring
from sage.queues.waiting import Waiting

_MANY = 1_000  # items of a batch that are pickled together at most


class Putting:
    """Not for users: `SharedMemoryQueue` is."""

    def __init__(self, ring: Ring, gathering: Gathering, waiting: Waiting, *, by_value: bool) -> None:
        self._ring = ring
        self._gathering = gathering
        self._waiting = waiting
        self._by_value = by_value
        self.puts = self.batches = self.batch_items = 0
        """Items that were not gathered; batches, and items in them."""

    def put(self, item: Any, settings: Settings, block: bool, timeout: float | None) -> None:
        now_or_never = item
        if type(item) not in PLAIN:
            frame = pack(item, by_value=self._by_value)
            if frame.buffers or len(frame.data) > LARGE_BYTES:
                self._put_alone(frame, item, block, timeout)
                return
            now_or_never = Frozen(bytes(frame.data))
        attempt = partial(self._gathering.add, now_or_never, settings)
        if not attempt():
            self._wait_with(item, attempt, block, timeout)

    def _put_alone(self, frame: Frame, item: Any, block: bool, timeout: float | None) -> None:
        def attempt() -> bool:
            return self._gathering.send() and self._ring.put(frame)

        if not attempt():
            self._wait_with(item, attempt, block, timeout)
        self.puts += 1

    def _wait_with(self, item: Any, attempt: Callable[[], bool], block: bool, timeout: float | None) -> None:
        try:
            self._waiting.until_room(attempt, deadline_of(timeout if block else 0.0, time.monotonic()))
        except QueueError as error:
            error.items = error.items or [item]
            raise

    def put_batch(self, items: list[Any], block: bool, timeout: float | None) -> None:
        """`items` are not anybody else's."""
        self.batches += 1
        self.batch_items += len(items)
        if not 0 < len(items) <= _MANY or not self._put_together(items):
            self._put_rest(items, block, timeout)

    def _put_together(self, items: list[Any]) -> bool:
        """Put all of them as one frame, if they are small and there is room: what is usual."""
        if not self._gathering.send():
            return False
        data = pack_list(items, by_value=self._by_value)
        if data is None or not self._ring.put_list(data, len(items)):
            return False
        self.puts += len(items)
        return True

    def _put_rest(self, rest: list[Any], block: bool, timeout: float | None) -> None:
        """Put as many at a time as there is room for, until none is left."""
        deadline: float | None = None
        size = _MANY
        try:
            while rest:
                part = rest if len(rest) <= size else rest[:size]
                try:
                    put = self._put_some(part)
                    if not put:
                        deadline = deadline or deadline_of(timeout if block else 0.0, time.monotonic())
                        put = self._waiting.until_room(partial(self._put_some, part), deadline)
                except QueueError as error:
                    if size == 1 or error.code != "E509":
                        raise
                    size = 1  # those before the one at fault are put
                    continue
                self.puts += put
                if put == len(rest):
                    return
                rest = rest[put:]
                size = 1 if size == 1 else min(2 * put, _MANY)
        except Full:
            raise BatchFull(rest) from None
        except QueueError as error:
            error.items = rest
            raise

    def _put_some(self, part: list[Any]) -> int:
        """Put as many items of `part` as there is room for; how many that were."""
        room = min(self._ring.free_items(), len(part))
        if room <= 0 or self._ring.free_bytes() <= 0 or not self._gathering.send():
            return 0
        part = part[:room]
        while not self._ring.put(frame := self._frame_of(part)):
            if frame.items == 1:
                return 0
            part = part[: frame.items // 2]
        return frame.items

    def _frame_of(self, part: list[Any]) -> Frame:
        """The first items of `part`: all that are small, or one that is large."""
        frame = pack_many(part, by_value=self._by_value)
        while frame.buffers or len(frame.data) > LARGE_BYTES:
            if len(part) == 1:
                return pack(part[0], by_value=self._by_value)
            part = part[: len(part) // 2]
            frame = pack_many(part, by_value=self._by_value)
        return frame
