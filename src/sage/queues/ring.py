"""The ring of frames in shared memory: many writers, many readers, each side under a robust lock of its own.

All that changes with a put is one word, ``items put << 32 | bytes written``, stored after the frame; all that changes
with a get is the same word of the other side. So a process that is killed at any moment leaves a ring that is whole,
and an item is in it from the moment its frame was put until the moment a get took it.

Two things make single items cheap. A producer reserves places, and puts many items into them at once. A process that
is the only consumer takes the ring's reading end on loan, with the items of the next frames at hand: each step of
`Ring.hand` gives an item and stores the word, in one operation of C objects that no other thread can interrupt. It
returns the loan when the hand is empty, or when another process calls for it.
"""

from __future__ import annotations

import mmap
import operator
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple

from sage.errors import QueueClosed, QueueError
from sage.queues.frames import LARGE_BYTES, Frame, Spoiled, pack_many, unpack, unpack_each, unpack_list
from sage.queues.peers import Peers
from sage.queues.robust import Bell, RobustLock
from sage.queues.segments import Segments

HEADER_BYTES = 16 * 1024
RING_BYTES = 4 * 1024 * 1024
UNBOUNDED = 2**31
LOCK_S = 0.1  # how long a lock that a stopped process holds may keep a call beyond its timeout
MAGIC = 0x5347_5132
_LIMIT = 2  # words
_PUT_WORD, _GET_WORD = 512 // 8, 640 // 8  # each on a cache line of its own
_HELD, _LOAN, _AWAY = 576 // 8, 704 // 8, 712 // 8
_PUT_LOCK, _GET_LOCK = 256, 320  # bytes
_PUT_BELL, _GET_BELL, _CLOSED = 768, 832, 836
_ENDED = 2  # more than closed

_MASK = 0xFFFF_FFFF
_ONE = 1 << 32  # item
_WORD = (1 << 64) - 1
_FRAME_BYTES = 16
_FRAME = struct.Struct("<4I")  # bytes that follow, items, number of the first item, kind
_SKIP = _MASK
_SINGLE, _MANY, _LARGE, _LARGE_MANY = range(4)  # the last two are in an area
_HAND = 100  # items that are at hand at least, if they are there


class Claims(NamedTuple):
    """What processes hold. The same twice with nothing in between that anybody took, then nobody took anything."""

    held: int
    """Places that are reserved for items to come, below a count of the changes."""
    loan: int
    """Who has the reading end: the slot, from 1 on."""
    away: int
    """Items that were taken for somebody else, who has not confirmed that they were got."""

    @property
    def places(self) -> int:
        """How many are reserved."""
        return self.held & _MASK


class Unreadable(Exception):
    """The next items cannot be unpickled in this process, and are dropped; why is the `__cause__`."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(count)


class _Found(NamedTuple):
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


class Ring:
    """The ring, as one process sees it. No method waits, but for a lock that is held for microseconds."""

    def __init__(self, memory: mmap.mmap, fd: int, peers: Peers, max_bytes: int) -> None:
        self._memory = memory
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self._peers = peers
        self.limit = self._words[_LIMIT]
        self.putting = Side(memory, RobustLock(memory, _PUT_LOCK, self._recount), _PUT_BELL)
        self.getting = Side(memory, RobustLock(memory, _GET_LOCK, self._recount_away), _GET_BELL)
        self.calls = memoryview(memory)[_GET_BELL : _GET_BELL + 8].cast("Q")
        """Not 0 at index 0: a consumer waits, or the queue is closed."""
        self._closed = memoryview(memory)[_CLOSED : _CLOSED + 4].cast("I")
        self._acquire_put, self._release_put = self.putting.lock.acquire, self.putting.lock.release
        self._acquire_get, self._release_get = self.getting.lock.acquire, self.getting.lock.release
        self._segments = Segments(memory, fd, peers, max_bytes, self.putting.announce)
        self.got = 0
        """Items taken by this process, those at hand too."""
        self._batch_of = -1
        self._batch: list[Any] = []
        self._batch_head = 0  # where the frame is that this process took some of
        self._batch_quick = 0  # so many of it can be taken without another look at the frame
        self._salvaged = -1  # the number of the first item of a frame of which something is spoiled
        self._bytes_in = self._bytes_out = 0
        self.clear_hand()

    @property
    def closed(self) -> bool:
        return self._closed[0] != 0

    @property
    def ended(self) -> bool:
        """Whether somebody was told that the queue is closed and nothing is left."""
        return self._closed[0] == _ENDED

    @property
    def bytes_in(self) -> int:
        return self._bytes_in + self._segments.bytes_in

    @property
    def bytes_out(self) -> int:
        return self._bytes_out + self._segments.bytes_out

    def close(self) -> None:
        """Under the lock, so that no put is between its look at this word and its end, unless it is stopped there."""
        try:
            self._acquire_put(LOCK_S)
            self._closed[0] = self._closed[0] or 1
        finally:
            self._release_put()
        self.putting.bell.ring()
        self.getting.bell.ring()

    def end(self) -> bool:
        """Nothing comes into the closed queue any more, even into reserved places; False if there is something."""
        try:
            if self._acquire_put(LOCK_S) and self.depth():
                return False
            self._closed[0] = _ENDED
            return True
        finally:
            self._release_put()

    def depth(self) -> int:
        """Items in the ring. Read in this order it is never negative."""
        got = self._words[_GET_WORD] >> 32
        return ((self._words[_PUT_WORD] >> 32) - got) & _MASK

    def free_items(self) -> int:
        """How many items fit. Other producers may change it at any time."""
        words = self._words
        got = words[_GET_WORD] >> 32  # in this order, as in `depth`
        return self.limit - (((words[_PUT_WORD] >> 32) - got) & _MASK) - (words[_HELD] & _MASK) - words[_AWAY]

    # --- what processes hold ---

    def claims(self) -> Claims:
        """What processes hold now."""
        return Claims(self._words[_HELD], self._words[_LOAN], self._words[_AWAY])

    def call_holders(self, claims: Claims) -> None:
        """Ask other processes to put what they hold into the ring, to give back the rest, and to confirm."""
        slots = {claims.loan - 1} if claims.loan else set()
        if claims.places:
            slots |= {slot for slot, places in enumerate(self._peers.held.tolist()) if places}
        if claims.away:
            slots |= {slot for slot, items in enumerate(self._peers.away.tolist()) if items}
        for slot in slots - {self._peers.slot}:
            self._peers.call(slot)

    def reserve(self, count: int, share: int = 1) -> int:
        """Take up to `count` places, but no more than this share of those that are free; perhaps 0."""
        try:
            if not self._acquire_put(LOCK_S) or self.closed:
                return 0
            granted = min(count, self.free_items() // share)
            if granted > 0:
                self._hold(granted)
            return max(granted, 0)
        finally:
            self._release_put()

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

    def _hold(self, places: int) -> None:
        self._peers.held[self._peers.slot] += places
        self._words[_HELD] = (self._words[_HELD] + places + _ONE) & _WORD

    def _recount(self) -> None:
        """Whoever had the put lock died: the sum may differ from what is held."""
        self._words[_HELD] = (self._words[_HELD] & ~_MASK) + _ONE & _WORD | sum(self._peers.held.tolist())

    def _take_away(self, items: int) -> None:
        self._peers.away[self._peers.slot] += items
        self._words[_AWAY] += items

    def _recount_away(self) -> None:
        self._words[_AWAY] = sum(self._peers.away.tolist())

    def confirm(self, count: int) -> None:
        """So many of the items that `get_frames` took were got."""
        try:
            self._acquire_get(LOCK_S)
            self._take_away(-count)
        finally:
            self._release_get()
        self.putting.announce()

    def recover(self) -> None:
        """Make up for processes that died."""
        for slot in self._peers.dead():
            try:
                if self._acquire_put(LOCK_S) and self._acquire_get(LOCK_S):
                    self._peers.held[slot] = self._peers.away[slot] = 0
                    self._recount()
                    self._recount_away()
                    if self._words[_LOAN] == slot + 1:
                        self._words[_LOAN] = 0
                    self._segments.recover(slot, self._areas())
                    self._peers.bury(slot)
            finally:
                self._release_get()
                self._release_put()
                self._peers.let_go(slot)
        self.putting.announce()
        self.getting.announce()

    def _areas(self) -> set[int]:
        """Those that frames of the ring are in."""
        areas = set()
        word = self._words[_GET_WORD]
        while (found := self._next(word)) is not None:
            if found.kind >= _LARGE:
                areas.add(self._area_of(found))
            word = ((found.first + found.items) & _MASK) << 32 | found.after
        return areas

    # --- putting ---

    def put(self, frame: Frame, *, held: bool = False) -> bool:
        """Add a frame; False if there is no room for it, or the queue is closed.

        With `held` it goes into places that were reserved before: they are good even when the queue is closed. Large
        items should come alone: then consumers get views of them. Raises E509 if it can never fit.
        """
        if frame.buffers or len(frame.data) > LARGE_BYTES:
            return self._put_large(frame, held)
        return self._add(frame.data, frame.items, _MANY if frame.many else _SINGLE, None, held)

    def put_list(self, data: bytes, items: int) -> bool:
        """The same of a small list."""
        return self._add(data, items, _MANY, None, False)

    def _put_large(self, frame: Frame, held: bool) -> bool:
        if frame.size_bytes > self._segments.max_bytes:
            raise QueueError("E509", "the item is larger than max_bytes", got=f"{frame.size_bytes:,} bytes")
        area = None
        try:
            if self._acquire_put(LOCK_S) and (held or (self.free_items() >= frame.items and not self.closed)):
                area = self._segments.reserve(frame.size_bytes + 64 * len(frame.buffers) + 64)
        finally:
            self._release_put()
        if area is None:
            return False
        added = False
        try:
            found = area.fill([frame.data, *frame.buffers])
            added = self._add(found, frame.items, _LARGE_MANY if frame.many else _LARGE, area, held)
        finally:
            if not added:
                area.free()
        return added

    def _add(self, data: Any, count: int, kind: int, area: Any, held: bool) -> bool:
        try:
            if not self._acquire_put(LOCK_S) or (not held and (self._closed[0] or self.free_items() < count)):
                return False
            if self._closed[0] == _ENDED:
                raise QueueClosed("E505", "the queue was at its end before these items came")
            words = self._words
            word = words[_PUT_WORD]
            number, tail = word >> 32, word & _MASK
            length = len(data)
            size = (length + 31) & ~15
            at = tail % RING_BYTES
            if at + size > RING_BYTES:  # a frame does not wrap
                size += RING_BYTES - at
            if ((tail - words[_GET_WORD]) & _MASK) + size > RING_BYTES:
                return False
            if at + size > RING_BYTES:
                _FRAME.pack_into(self._memory, HEADER_BYTES + at, _SKIP, 0, 0, 0)
                at = 0
            at += HEADER_BYTES + _FRAME_BYTES
            self._memory[at : at + length] = data
            _FRAME.pack_into(self._memory, at - _FRAME_BYTES, length, count, number, kind)
            if area is not None:
                area.hand_over()
            words[_PUT_WORD] = ((number + count) & _MASK) << 32 | ((tail + size) & _MASK)
            if held:
                self._hold(-count)
            self._bytes_in += length
        finally:
            self._release_put()
        if self.getting.waits[0]:
            self.getting.bell.ring()
        return True

    # --- getting ---

    def clear_hand(self) -> None:
        """Forget the items at hand: they stay in the ring."""
        self._left: Iterator[Any] = iter(())
        self.hand: Iterator[tuple[Any, None]] = zip(self._left, repeat(None), strict=False)

    @property
    def left(self) -> int:
        """Items at hand."""
        return operator.length_hint(self._left)

    @property
    def on_loan(self) -> bool:
        """Whether this process has the reading end to itself."""
        return bool(self._words[_LOAN] == self._peers.slot + 1)

    def give_back(self) -> None:
        """Return the loan, if this process has it, and the items at hand with it."""
        if not self.on_loan:
            return
        try:
            if self._acquire_get(LOCK_S) and self.on_loan:
                for _ in self._left:  # nobody steps on the hand any more: it ends with this iterator
                    self.got -= 1
                self._words[_LOAN] = 0
        finally:
            self._release_get()
        self.getting.announce()

    def get(self) -> tuple[Any] | None:
        """One item, as a tuple; None if there is none to be had now. Raises `Unreadable`."""
        try:
            if self._acquire_get(LOCK_S) and not self._words[_LOAN] and (item := self._next_of_batch()):
                return item
        finally:
            self._release_get()
            self.putting.announce()
        items = self._under_lock(1)
        return (items[0],) if items else None

    def get_many(self, wanted: int) -> list[Any]:
        """Up to `wanted` items, perhaps none. Raises `Unreadable`, but only if nothing else is next."""
        return self._under_lock(wanted)

    def get_frames(self, wanted: int) -> list[Frame]:
        """The same as frames, as they are in the ring. Their places are taken until `confirm`."""
        frames: list[Frame] = []
        self.give_back()
        try:
            if self._acquire_get(LOCK_S) and not self._words[_LOAN]:
                while wanted > 0 and (found := self._next(self._words[_GET_WORD])) is not None:
                    if found.start or found.items > wanted:
                        if not frames:
                            frames.append(self._part(found, wanted))
                        break
                    frames.append(self._frame(found))
                    self._take_away(found.items)
                    self._commit(found, found.items)
                    self.got += found.items
                    wanted -= found.items
        finally:
            self._release_get()
        self.putting.announce()
        return frames

    def _under_lock(self, wanted: int) -> list[Any]:
        items: list[Any] = []
        try:
            if self._acquire_get(LOCK_S) and (not self._words[_LOAN] or self._use_loan(items, wanted)):
                self._take(items, wanted)
        except Unreadable:
            if not items:
                raise
        finally:
            self._release_get()
        if self.putting.waits[0]:
            self.putting.bell.ring()
        return items

    # --- all that follows is called under the get lock ---

    def _use_loan(self, items: list[Any], wanted: int) -> bool:
        """Take what is at hand; whether nobody has the reading end now."""
        if not self.on_loan:
            return False
        items += [item for item, _ in islice(self.hand, wanted)]
        if self.left:
            return False
        self._words[_LOAN] = 0
        return True

    def _take(self, items: list[Any], wanted: int) -> None:
        """Add to `items` what is in the next frames, until there are `wanted`."""
        if wanted == 1 and not items and self.depth() > 1 and self._peers.is_only_consumer():
            self._fill_hand()
            items += [item for item, _ in islice(self.hand, 1)]
        else:
            self._take_lists(items, wanted)
        while len(items) < wanted:
            found = self._next(self._words[_GET_WORD])
            if found is None:
                return
            batch = self._batch_at(found)
            missing = wanted - len(items)
            if found.start or found.items > missing:
                batch = batch[found.start : found.start + missing]
            good = self._good(batch, found, drop=not items)
            items += good
            self.got += len(good)
            self._commit(found, len(good))

    def _next_of_batch(self) -> tuple[Any] | None:
        """The next item, if it is in the frame that is kept, and not the last there: consumers in turn are quick so."""
        word = self._words[_GET_WORD]
        index = ((word >> 32) - self._batch_of) & _MASK
        if index >= self._batch_quick or word & _MASK != self._batch_head:  # numbers come again after 2**32 items
            return None
        self._words[_GET_WORD] = (word + _ONE) & _WORD
        self.got += 1
        return (self._batch[index],)

    def _take_lists(self, items: list[Any], wanted: int) -> None:
        """The same of the frames that are lists and wanted whole, up to any other: what is usual, without detours."""
        words = self._words
        word = words[_GET_WORD]
        while word >> 32 != words[_PUT_WORD] >> 32:
            head = word & _MASK
            at = HEADER_BYTES + head % RING_BYTES
            length, count, first, kind = _FRAME.unpack_from(self._memory, at)
            if kind != _MANY or first != word >> 32 or len(items) + count > wanted:
                return
            at += _FRAME_BYTES
            try:
                items += unpack_list(self._bytes[at : at + length])
            except Exception:  # noqa: BLE001 -- anything may be raised: `_batch_at` finds out for whom it is
                return
            word = words[_GET_WORD] = ((first + count) & _MASK) << 32 | (head + ((length + 31) & ~15)) & _MASK
            self.got += count
            self._bytes_out += length

    def _part(self, found: _Found, wanted: int) -> Frame:
        """Some items of a frame, packed anew."""
        items = list(self._good(self._batch_at(found)[found.start : found.start + wanted], found, drop=True))
        frame = pack_many(items)
        self._take_away(len(items))
        self._commit(found, len(items))
        self.got += len(items)
        return frame

    def _fill_hand(self) -> None:
        """Take the reading end on loan, and the items of the next small frames at hand; perhaps none."""
        items: list[Any] = []
        words: list[int] = []
        word = self._words[_GET_WORD]
        while len(items) < _HAND:
            found = self._next(word)
            if found is None or found.kind >= _LARGE or found.first + found.items > _MASK:
                break
            batch = self._batch_at(found)
            try:
                good = self._good(batch[found.start :], found, drop=not items)
            except Unreadable:
                if not items:
                    raise
                break
            items += good
            words += range(word + _ONE, word + len(good) * _ONE + 1, _ONE)
            if found.start + len(good) < found.items:
                break
            word = words[-1] = words[-1] & ~_MASK | found.after
        if not items:
            return
        self._words[_LOAN] = self._peers.slot + 1
        self._left = iter(items)
        store: Callable[..., None] = operator.setitem
        self.hand = zip(self._left, map(store, repeat(self._words), repeat(_GET_WORD), words), strict=False)
        self.got += len(items)

    def _next(self, word: int) -> _Found | None:
        """The frame that is next where this is the word of the getting side."""
        number, head = word >> 32, word & _MASK
        if number == self._words[_PUT_WORD] >> 32:
            return None
        at = head % RING_BYTES
        length, count, first, kind = _FRAME.unpack_from(self._memory, HEADER_BYTES + at)
        if length == _SKIP:
            head += RING_BYTES - at
            at = 0
            length, count, first, kind = _FRAME.unpack_from(self._memory, HEADER_BYTES)
        after = (head + ((length + 31) & ~15)) & _MASK
        start = (number - first) & _MASK
        return tuple.__new__(_Found, (HEADER_BYTES + _FRAME_BYTES + at, length, count, first, kind, start, after))

    def _commit(self, found: _Found, taken: int) -> None:
        """That many items of a frame are gone from the ring."""
        stop = found.start + taken
        is_last = stop == found.items
        area = self._area_of(found) if is_last and found.kind == _LARGE_MANY else -1
        end = found.after if is_last else self._words[_GET_WORD] & _MASK
        self._words[_GET_WORD] = ((found.first + stop) & _MASK) << 32 | end
        self._batch_head = end
        if area >= 0:
            self._segments.free(area)

    def _area_of(self, found: _Found) -> int:
        return int.from_bytes(self._memory[found.at : found.at + 8], "little")

    def _frame(self, found: _Found) -> Frame:
        data = self._memory[found.at : found.at + found.length]
        self._bytes_out += found.length
        if found.kind < _LARGE:
            return Frame(found.items, found.kind == _MANY, data)
        if found.kind == _LARGE_MANY:  # several processes may take items of it: each has a copy
            pickled, *buffers = self._segments.copies(data)
        else:
            self._segments.claim(self._area_of(found))
            pickled, *buffers = self._segments.views(data)
        return Frame(found.items, found.kind == _LARGE_MANY, pickled, buffers)

    def _batch_at(self, found: _Found) -> list[Any]:
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

    def _good(self, batch: Sequence[Any], found: _Found, *, drop: bool) -> Sequence[Any]:
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


def set_up(fd: int, limit: int) -> None:
    """Prepare a file that is all zeros. The magic number comes last: without it nobody attaches."""
    memory = mmap.mmap(fd, HEADER_BYTES)
    for offset in (_PUT_LOCK, _GET_LOCK):
        RobustLock(memory, offset).set_up()
    struct.pack_into("<3Q", memory, 0, MAGIC, RING_BYTES, limit)


def shape(fd: int) -> tuple[int, int, int]:
    """Magic number, bytes of the ring, items that fit; zeros if the file is too short."""
    magic, ring_bytes, limit = struct.unpack("<3Q", os.pread(fd, 24, 0).ljust(24, b"\0"))
    return magic, ring_bytes, limit
