"""Where everything is in the memory of a ring, and what both of its halves know."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from sage.queues.peers import Peers
from sage.queues.robust import Bell, RobustLock
from sage.queues.segments import Segments

HEADER_BYTES = 16 * 1024
RING_BYTES = 4 * 1024 * 1024
UNBOUNDED = 2**31
MAGIC = 0x5347_5134
LOCK_S = 0.1
"""How long a lock that a stopped process holds may keep a call beyond its timeout."""
LIMIT, WASTED = 2, 4  # words
PUT_WORD, GET_WORD = 512 // 8, 640 // 8  # each on a cache line of its own
HELD, LOAN, AWAY = 576 // 8, 704 // 8, 712 // 8
PUT_LOCK, GET_LOCK = 256, 320  # bytes
PUT_BELL, GET_BELL, CLOSED = 768, 832, 836
ENDED = 2  # more than closed

MASK = 0xFFFF_FFFF
ONE = 1 << 32  # item
WORD = (1 << 64) - 1
FRAME_BYTES = 16
FRAME = struct.Struct("<4I")  # bytes that follow, items, number of the first item, kind
SKIP = MASK
SINGLE, MANY, LARGE, LARGE_MANY = range(4)  # the last two are in an area


class Found(NamedTuple):
    """A frame in the ring."""

    at: int
    """Where its payload begins."""
    length: int
    items: int
    first: int
    """The number of its first item."""
    kind: int
    start: int
    """How many of its items were taken."""
    after: int
    """Where the ring goes on, in bytes."""


class Side:
    """One end of the ring: its lock, and the bell of those who wait there."""

    def __init__(self, memory: mmap.mmap, lock: RobustLock, bell_at: int) -> None:
        self.lock = lock
        self.bell = Bell(memory, bell_at)
        self.waits = memoryview(memory)[bell_at : bell_at + 4].cast("I")
        """Not 0 at index 0: somebody waits here."""

    def expect(self) -> None:
        """Whoever is done at the other end from now on rings: the lock makes the flag visible before we look again."""
        self.bell.expect()
        if self.lock.acquire(LOCK_S):
            self.lock.release()

    def announce(self) -> None:
        """Wake those who wait here."""
        if self.waits[0]:
            self.bell.ring()


class State:
    """What both halves of a ring share, as one process sees it."""

    def __init__(self, memory: mmap.mmap, peers: Peers, segments: Segments, max_bytes: int) -> None:
        self._memory = memory
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self._peers = peers
        self._max_bytes = max_bytes
        self.limit = self._words[LIMIT]
        self.putting = Side(memory, RobustLock(memory, PUT_LOCK, self._recount), PUT_BELL)
        self.getting = Side(memory, RobustLock(memory, GET_LOCK, self._recount_away), GET_BELL)
        self.calls = memoryview(memory)[GET_BELL : GET_BELL + 8].cast("Q")
        """Not 0 at index 0: a consumer waits, or the queue is closed."""
        self._closed = memoryview(memory)[CLOSED : CLOSED + 4].cast("I")
        self._acquire_put, self._release_put = self.putting.lock.acquire, self.putting.lock.release
        self._acquire_get, self._release_get = self.getting.lock.acquire, self.getting.lock.release
        self._segments = segments
        segments.freed = self.putting.announce
        self._bytes_in = self._bytes_out = 0

    @property
    def closed(self) -> bool:
        return self._closed[0] != 0

    def depth(self) -> int:
        """Items in the ring. Read in this order it is never negative."""
        got = self._words[GET_WORD] >> 32
        return ((self._words[PUT_WORD] >> 32) - got) & MASK

    def free_items(self) -> int:
        """How many items fit. Other producers may change it at any time."""
        got = self._words[GET_WORD]  # in this order, as in `depth`
        return self._free_items(got, self._words[PUT_WORD] >> 32)

    def _free_items(self, got: int, number: int) -> int:
        """The same where these are the word of the getting side and the number of items put."""
        words = self._words
        return self.limit - (number - (got >> 32) & MASK) - (words[HELD] & MASK) - words[AWAY]

    def free_bytes(self) -> int:
        """How many bytes fit of `max_bytes`. Other producers may change it at any time."""
        word = self._words[GET_WORD]
        free = self._max_bytes - self._used_bytes(word & MASK) - self._segments.used_bytes()
        if free < self._max_bytes // 2 and (found := self._next(word)) is not None and found.start:
            free += self._size_of(found) * found.start // found.items  # of those that were taken one by one
        return free

    def _used_bytes(self, head: int) -> int:
        """In the ring, but for what was left empty at its end."""
        used = ((self._words[PUT_WORD] & MASK) - head) & MASK
        return used - (self._words[WASTED] if head % RING_BYTES + used > RING_BYTES else 0)

    def _size_of(self, found: Found) -> int:
        size = (found.length + 31) & ~15
        return size if found.kind < LARGE else size + self._segments.size_of(self._area_of(found))

    def _next(self, word: int) -> Found | None:
        """The frame that is next where this is the word of the getting side."""
        number, head = word >> 32, word & MASK
        if number == self._words[PUT_WORD] >> 32:
            return None
        at = head % RING_BYTES
        length, count, first, kind = FRAME.unpack_from(self._memory, HEADER_BYTES + at)
        if length == SKIP:
            head += RING_BYTES - at
            at = 0
            length, count, first, kind = FRAME.unpack_from(self._memory, HEADER_BYTES)
        after = (head + ((length + 31) & ~15)) & MASK
        start = (number - first) & MASK
        return tuple.__new__(Found, (HEADER_BYTES + FRAME_BYTES + at, length, count, first, kind, start, after))

    def _area_of(self, found: Found) -> int:
        return int.from_bytes(self._memory[found.at : found.at + 8], "little")

    def _recount(self) -> None:
        """Whoever had the put lock died: the sum may differ from what is held."""
        self._words[HELD] = (self._words[HELD] & ~MASK) + ONE & WORD | sum(self._peers.held.tolist())

    def _recount_away(self) -> None:
        self._words[AWAY] = sum(self._peers.away.tolist())

    def _hold(self, places: int) -> None:
        self._peers.held[self._peers.slot] += places
        self._words[HELD] = (self._words[HELD] + places + ONE) & WORD

    def _take_away(self, items: int) -> None:
        self._peers.away[self._peers.slot] += items
        self._words[AWAY] += items


def set_up(fd: int, limit: int) -> None:
    """Prepare a file that is all zeros. The magic number comes last: without it nobody attaches."""
    memory = mmap.mmap(fd, HEADER_BYTES)
    for offset in (PUT_LOCK, GET_LOCK):
        RobustLock(memory, offset).set_up()
    struct.pack_into("<3Q", memory, 0, MAGIC, RING_BYTES, limit)


def shape(fd: int) -> tuple[int, int, int]:
    """Magic number, bytes of the ring, items that fit; zeros if the file is too short."""
    magic, ring_bytes, limit = struct.unpack("<3Q", os.pread(fd, 24, 0).ljust(24, b"\0"))
    return magic, ring_bytes, limit
