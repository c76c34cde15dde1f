"""Large payloads: areas of a queue's file that are used again and again, since memory that is warm copies quickest.

An area belongs to the producer that fills it, then to the queue, then to the consumer that looks at it, until the last
view is gone. Its state and size are one word, which only its owner of the moment changes; what a process that died was
about to do is made up for by `recover`, since the ring tells which areas it holds.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sage.errors import QueueError
from sage.queues.peers import Peers

_TABLE_AT, _TABLE_BYTES = 4096, 8192
_ENTRIES = _TABLE_BYTES // 24
_FREE, _QUEUED = 0, 1
_HELD = 16  # plus the slot
_STATE_BITS = 16
_STATE = (1 << _STATE_BITS) - 1
_ALIGNED = 64
_SMALLEST = 64 * 1024
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_system = ctypes.CDLL(None, use_errno=True)


class _Entry(NamedTuple):
    """A row of the table; `at` is 0 where it was never used, `capacity` where it has no memory."""

    row: int
    at: int
    capacity: int
    state: int
    size: int
    """As much of it is in use."""


class Area:
    """One area, reserved by a producer."""

    def __init__(self, segments: Segments, entry: int) -> None:
        self._segments, self._entry = segments, entry

    def fill(self, parts: Sequence[Any]) -> bytes:
        """Copy `parts` there; what a consumer needs to find them."""
        area = self._segments.memory_of(self._entry)
        at = 0
        lengths = [len(part) for part in parts]
        for part, length in zip(parts, lengths, strict=True):
            area[at : at + length] = part
            at += _aligned(length)
        self._segments.bytes_in += at
        return struct.pack(f"<{len(lengths) + 1}Q", self._entry, *lengths)

    def hand_over(self) -> None:
        """It belongs to the queue now. Under the put lock, just before its frame is there."""
        self._segments.mark(self._entry, _QUEUED)

    def free(self) -> None:
        """It may be used again."""
        self._segments.free(self._entry)


class Segments:
    """The areas, as one process sees them."""

    def __init__(
        self, memory: mmap.mmap, fd: int, map_area: Callable[[int, int], mmap.mmap], peers: Peers, max_bytes: int
    ) -> None:
        """`map_area` maps so many bytes of the file from a place on, once and for all."""
        table = memoryview(memory)[_TABLE_AT : _TABLE_AT + _TABLE_BYTES]
        self._words = table.cast("Q")
        self._states = table[16::24]  # all states are below 256
        self._begin = len(memory)
        self._fd = fd
        self._peers = peers
        self._map_area = map_area
        self.freed: Callable[[], object] = bool
        """Called when one that this process looked at is free again."""
        self.max_bytes = max_bytes
        self._rows = 0  # were ever used, as far as it is known
        self.held_bytes = 0
        self._viewed: set[int] = set()  # rows that this process looks at
        self.bytes_in = self.bytes_out = 0

    def reserve(self, size: int) -> Area | None:
        """An area for `size` bytes, or None if there is none to be had now. Under the put lock."""
        row = self._used_states().find(_FREE)  # the first: it was in use lately, and its memory is warm
        if row < 0 or self._words[3 * row + 1] != _capacity_for(size):
            entries = self._table()
            fitting = [(entry.capacity, entry.row) for entry in entries if entry.capacity >= size and not entry.state]
            row = min(fitting)[1] if fitting else self._new(entries, size)
            if row < 0:
                return None
        self._words[3 * row + 2] = size << _STATE_BITS | (_HELD + self._peers.slot)
        return Area(self, row)

    @property
    def in_use(self) -> bool:
        """Whether there ever was an area."""
        return bool(self._words[0])

    def used_bytes(self) -> int:
        """In areas that are in the queue, or about to be."""
        states = self._used_states()
        filled = self._rows_in(states, _HELD + self._peers.slot)
        rows = [*self._rows_in(states, _QUEUED), *(row for row in filled if row not in self._viewed)]
        return sum(map(self.size_of, rows))

    def _rows_in(self, states: bytes, state: int) -> list[int]:
        rows: list[int] = []
        row = states.find(state)
        while row >= 0:
            rows.append(row)
            row = states.find(state, row + 1)
        return rows

    def size_of(self, row: int) -> int:
        """How many bytes were asked for, of the area's."""
        return int(self._words[3 * row + 2]) >> _STATE_BITS

    def _used_states(self) -> bytes:
        """The states of the rows that were ever used."""
        while self._rows < _ENTRIES and self._words[3 * self._rows]:
            self._rows += 1
        return self._states[: self._rows].tobytes()

    def _table(self) -> list[_Entry]:
        """The rows that were ever used."""
        states = self._used_states()
        words = self._words[: 3 * len(states)].tolist()
        rows = zip(words[::3], words[1::3], states, words[2::3], strict=True)
        return [_Entry(row, at, size, state, word >> _STATE_BITS) for row, (at, size, state, word) in enumerate(rows)]

    def _new(self, entries: list[_Entry], size: int) -> int:
        """A row with memory for `size` bytes; below 0 if there is none before one in use is free again."""
        capacity = _capacity_for(size)
        if len(entries) == _ENTRIES or sum(entry.capacity for entry in entries) + capacity > self.max_bytes:
            entries = [self._without_memory(entry) if entry.state == _FREE else entry for entry in entries]
        index = next((entry.row for entry in entries if not entry.capacity), len(entries))
        if index == _ENTRIES:
            return -1
        at = self._place(entries, capacity)
        try:
            os.posix_fallocate(self._fd, at, capacity)  # fails here, not at the first byte, where memory is short
        except OSError as error:
            if error.errno == errno.ENOSPC and any(entry.state != _FREE for entry in entries):
                return -1  # until one of those is free again
            what = f"there is no memory for an item of {size:,} bytes: {error.strerror}"
            raise QueueError("E507", what, try_="make room in the folder of the queue's file") from error
        self._words[3 * index] = at
        self._words[3 * index + 1] = capacity
        return index

    def _without_memory(self, entry: _Entry) -> _Entry:
        """A free area is too small to be of use: the system gets its memory back."""
        if entry.capacity:
            self._words[3 * entry.row + 1] = 0
            arguments = (ctypes.c_long(entry.at), ctypes.c_long(entry.capacity))
            _system.fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, *arguments)
        return entry._replace(capacity=0)

    def _place(self, entries: list[_Entry], capacity: int) -> int:
        """Where in the file there are so many bytes that no area has."""
        at = self._begin
        for entry in sorted(entries, key=lambda entry: entry.at):
            if entry.capacity and entry.at - at >= capacity:
                break
            if entry.capacity:
                at = entry.at + entry.capacity
        return at

    def mark(self, entry: int, state: int) -> None:
        """Change the state of an area."""
        self._words[3 * entry + 2] = self._words[3 * entry + 2] & ~_STATE | state

    def free(self, entry: int) -> None:
        """It may be used again."""
        self.mark(entry, _FREE)
        self.freed()

    def claim(self, entry: int) -> None:
        """The area becomes this process's own. Under the get lock, just before its frame is gone from the ring."""
        self.mark(entry, _HELD + self._peers.slot)

    def recover(self, slot: int, queued: Collection[int]) -> None:
        """Free what a peer that died had, and what is in no frame of the ring. Under both locks."""
        for entry in self._table():
            if entry.state == _HELD + slot and entry.row in queued:
                self.mark(entry.row, _QUEUED)
            elif entry.state in (_HELD + slot, _QUEUED) and entry.row not in queued:
                self.mark(entry.row, _FREE)

    def views(self, found: bytes) -> list[memoryview]:
        """What `fill` was given, as views of the area, which is free again when the last one is gone."""
        entry, lengths, total = _parsed(found)
        area = (ctypes.c_char * total).from_buffer(self.memory_of(entry))
        self.held_bytes += total
        self._viewed.add(entry)
        self.bytes_out += total
        weakref.finalize(area, self._let_go, entry, total, os.getpid()).atexit = False
        view = memoryview(area).cast("B")
        if self.held_bytes > self.max_bytes // 2:
            view = memoryview(bytearray(view))  # this process keeps many: leave the room to the queue
        return _split(view, lengths)

    def copies(self, found: bytes) -> list[memoryview]:
        """What `fill` was given; the area stays as it is."""
        entry, lengths, total = _parsed(found)
        self.bytes_out += total
        return _split(memoryview(bytearray(memoryview(self.memory_of(entry))[:total])), lengths)

    def _let_go(self, entry: int, total: int, process: int) -> None:
        if process != os.getpid():
            return  # a forked child's copy of a view
        self.held_bytes -= total
        self._viewed.discard(entry)
        self.free(entry)

    def memory_of(self, entry: int) -> mmap.mmap:
        """The area's bytes."""
        return self._map_area(self._words[3 * entry], self._words[3 * entry + 1])


def _capacity_for(size: int) -> int:
    """An eighth more at most: so that areas fit for other sizes too."""
    size = max(size, _SMALLEST)
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED


def _parsed(found: bytes) -> tuple[int, list[int], int]:
    """The entry, the lengths of the parts, and how many bytes they are together."""
    entry, *lengths = struct.unpack(f"<{len(found) // 8}Q", found)
    return entry, lengths, sum(map(_aligned, lengths))


def _split(view: memoryview, lengths: list[int]) -> list[memoryview]:
    parts = []
    at = 0
    for length in lengths:
        parts.append(view[at : at + length])
        at += _aligned(length)
    return parts
