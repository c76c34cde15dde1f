"""The putting half of a ring in shared memory. A producer reserves places, and puts many items into them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import QueueClosed, QueueError
from sage.queues.frames import LARGE_BYTES, Frame
from sage.queues.ring_layout import (
    ENDED,
    FRAME,
    FRAME_BYTES,
    GET_WORD,
    HEADER_BYTES,
    LARGE,
    LARGE_MANY,
    LOCK_S,
    MANY,
    MASK,
    PUT_WORD,
    RING_BYTES,
    SINGLE,
    SKIP,
    WASTED,
    State,
)
from sage.queues.segments import Area

PLACE_BYTES = 4096
"""As much an item may take for which only a place was reserved with `reserve_share`."""
_SHARE = 4  # a process reserves one in so many free places: near the limit none, and every put is exact by itself


class Putting(State):
    """Not for users: `Ring` is."""

    @property
    def bytes_in(self) -> int:
        return self._bytes_in + self._segments.bytes_in

    def reserve(self, count: int) -> int:
        """Take up to `count` places; perhaps 0. Whether there is room for the bytes, `put` tells."""
        return self._reserve(count, self.free_items)

    def reserve_share(self, count: int) -> int:
        """The same of a share of the places that are free, and of the bytes: an item there may take `PLACE_BYTES`."""
        return self._reserve(count, lambda: min(self.free_items(), self._surely_free_bytes() // PLACE_BYTES) // _SHARE)

    def _reserve(self, count: int, free: Callable[[], int]) -> int:
        try:
            if not self._acquire_put(LOCK_S) or self.closed:
                return 0
            granted = min(count, free())
            if granted > 0:
                self._hold(granted)
            return max(granted, 0)
        finally:
            self._release_put()

    def free_small_bytes(self) -> int:
        """How many bytes of small items fit now."""
        return min(self.free_bytes(), RING_BYTES - self._between())

    def _surely_free_bytes(self) -> int:
        """The same or less: without a look at what is wasted or half taken, where only small items ever came."""
        if self._segments.in_use:
            return self.free_small_bytes()
        return min(self._max_bytes, RING_BYTES) - self._between()

    def _between(self) -> int:
        """Bytes from the next frame to the end of the last."""
        words = self._words
        return (words[PUT_WORD] - words[GET_WORD]) & MASK

    def release(self, count: int) -> bool:
        """Give back places; False if a stopped process has the lock."""
        try:
            if not self._acquire_put(LOCK_S):
                return False
            self._hold(-count)
        finally:
            self._release_put()
        self.putting.announce()
        self.getting.announce()  # they may want to know that nothing is to come
        return True

    def put(self, frame: Frame, *, held: bool = False) -> bool:
        """Add a frame; False if there is no room for it, or the queue is closed.

        With `held` it goes into places that were reserved before: they are good even when the queue is closed. Large
        items should come alone: then consumers get views of them. Raises E509 if it can never fit.
        """
        if frame.buffers or len(frame.data) > LARGE_BYTES:
            return self._put_large(frame, held)
        return self._add(frame.data, frame.items, MANY if frame.many else SINGLE, None, held)

    def put_list(self, data: bytes, items: int) -> bool:
        """The same of a small list."""
        return self._add(data, items, MANY, None, False)

    def _put_large(self, frame: Frame, held: bool) -> bool:
        size = frame.size_bytes
        self._check_size(size)
        area = None
        try:
            if self._acquire_put(LOCK_S) and (held or (self.free_items() >= frame.items and not self.closed)):
                room = size + 64 * len(frame.buffers) + 64  # each part begins where a line of the cache does
                area = self._segments.reserve(room) if self.free_bytes() >= size else None
        finally:
            self._release_put()
        if area is None:
            return False
        added = False
        try:
            found = area.fill([frame.data, *frame.buffers])
            added = self._add(found, frame.items, LARGE_MANY if frame.many else LARGE, area, held)
        finally:
            if not added:
                area.free()
        return added

    def _add(self, data: Any, count: int, kind: int, area: Area | None, held: bool) -> bool:
        try:
            if not self._acquire_put(LOCK_S):
                return False
            words = self._words
            got, word = words[GET_WORD], words[PUT_WORD]
            number, tail, head = word >> 32, word & MASK, got & MASK
            if held:
                if self._closed[0] == ENDED:
                    raise QueueClosed("E505", "the queue was at its end before these items came")
            elif self._closed[0] or self._free_items(got, number) < count:
                return False
            length = len(data)
            size = (length + 31) & ~15
            used = (tail - head) & MASK
            if area is None and (used + size > self._max_bytes or self._segments.in_use) and self.free_bytes() < size:
                if held or count == 1:
                    self._check_size(size)
                return False
            at = tail % RING_BYTES
            wasted = RING_BYTES - at if at + size > RING_BYTES else 0  # a frame does not wrap
            if used + wasted + size > RING_BYTES:
                return False
            if wasted:
                FRAME.pack_into(self._memory, HEADER_BYTES + at, SKIP, 0, 0, 0)
                at = 0
            if not at:
                words[WASTED] = wasted
            at += HEADER_BYTES + FRAME_BYTES
            self._memory[at : at + length] = data
            FRAME.pack_into(self._memory, at - FRAME_BYTES, length, count, number, kind)
            if area is not None:
                area.hand_over()
            words[PUT_WORD] = ((number + count) & MASK) << 32 | ((tail + wasted + size) & MASK)
            if held:
                self._hold(-count)
            self._bytes_in += length
        finally:
            self._release_put()
        self.getting.announce()
        return True

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise QueueError("E509", "the item is larger than max_bytes", got=f"{size:,} bytes")
