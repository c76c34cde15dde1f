"""Frames of a ring in shared memory as the items that are in them, for whoever holds the get lock."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

from sage.queues.frames import Frame, Spoiled, unpack, unpack_each
from sage.queues.peers import Peers
from sage.queues.ring_layout import GET_WORD, LARGE, LARGE_MANY, MANY, MASK, Found, State
from sage.queues.segments import Segments


class Unreadable(Exception):
    """The next items cannot be unpickled in this process, and are dropped; why is the `__cause__`."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(count)


class Reading(State):
    """Not for users: `Ring` is."""

    def __init__(self, memory: mmap.mmap, peers: Peers, segments: Segments, max_bytes: int) -> None:
        super().__init__(memory, peers, segments, max_bytes)
        self._batch_of = -1
        self._batch: list[Any] = []
        self._batch_head = 0  # where the frame is that this process took some of
        self._batch_quick = 0  # so many of it can be taken without another look at the frame
        self._salvaged = -1  # the number of the first item of a frame of which something is spoiled

    @property
    def bytes_out(self) -> int:
        return self._bytes_out + self._segments.bytes_out

    def _commit(self, found: Found, taken: int) -> None:
        """That many items of a frame are gone from the ring."""
        stop = found.start + taken
        is_last = stop == found.items
        area = self._area_of(found) if is_last and found.kind == LARGE_MANY else -1
        end = found.after if is_last else self._words[GET_WORD] & MASK
        self._words[GET_WORD] = ((found.first + stop) & MASK) << 32 | end
        self._batch_head = end
        if area >= 0:
            self._segments.free(area)

    def _frame(self, found: Found) -> Frame:
        data = self._memory[found.at : found.at + found.length]
        self._bytes_out += found.length
        if found.kind < LARGE:
            return Frame(found.items, found.kind == MANY, data)
        if found.kind == LARGE_MANY:  # several processes may take items of it: each has a copy
            pickled, *buffers = self._segments.copies(data)
        else:
            self._segments.claim(self._area_of(found))
            pickled, *buffers = self._segments.views(data)
        return Frame(found.items, found.kind == LARGE_MANY, pickled, buffers)

    def _batch_at(self, found: Found) -> list[Any]:
        """All items of a frame; those of one that is taken bit by bit are kept."""
        if self._batch_of == found.first and found.items > 1:
            return self._batch
        frame = self._frame(found)
        try:
            batch = unpack(frame)
        except Exception:  # noqa: BLE001 -- anything may be raised: it goes to whoever gets the item
            batch = unpack_each(frame)
            self._salvaged = found.first
        if found.items > 1:
            self._batch, self._batch_of = batch, found.first
            self._batch_quick = 0 if self._salvaged == found.first else found.items - 1
        return batch

    def _good(self, batch: Sequence[Any], found: Found, *, drop: bool) -> Sequence[Any]:
        """The items up to the first that is spoiled. Raises where that is the next; with `drop` it is gone then."""
        if found.first != self._salvaged:
            return batch
        bad = next((index for index, item in enumerate(batch) if type(item) is Spoiled), -1)
        if bad < 0:
            return batch
        if bad > 0:
            return batch[:bad]
        count = next((index for index, item in enumerate(batch) if type(item) is not Spoiled), len(batch))
        if drop:
            self._commit(found, count)
        raise Unreadable(count) from batch[0].error
