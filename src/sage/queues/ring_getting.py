"""The getting half of a ring in shared memory.

A process that is the only consumer takes the ring's reading end on loan, with the items of the next frames at hand:
each step of `Getting.hand` gives an item and stores the word, in one operation of C objects that no other thread can
interrupt. It returns the loan when the hand is empty, or when another process calls for it.
"""

from __future__ import annotations

import mmap
import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

from sage.queues.frames import Frame, Spoiled, pack_many, unpack, unpack_each, unpack_list
from sage.queues.peers import Peers
from sage.queues.ring_layout import (
    FRAME,
    FRAME_BYTES,
    GET_WORD,
    HEADER_BYTES,
    LARGE,
    LARGE_MANY,
    LOAN,
    LOCK_S,
    MANY,
    MASK,
    ONE,
    PUT_WORD,
    RING_BYTES,
    WORD,
    Found,
    State,
)
from sage.queues.segments import Segments

_HAND = 100  # items that are at hand at least, if they are there


class Unreadable(Exception):
    """The next items cannot be unpickled in this process, and are dropped; why is the `__cause__`."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(count)


class Getting(State):
    """Not for users: `Ring` is."""

    def __init__(self, memory: mmap.mmap, peers: Peers, segments: Segments, max_bytes: int) -> None:
        super().__init__(memory, peers, segments, max_bytes)
        self.got = 0
        """Items taken by this process, those at hand too."""
        self._batch_of = -1
        self._batch: list[Any] = []
        self._batch_head = 0  # where the frame is that this process took some of
        self._batch_quick = 0  # so many of it can be taken without another look at the frame
        self._salvaged = -1  # the number of the first item of a frame of which something is spoiled
        self.clear_hand()

    @property
    def bytes_out(self) -> int:
        return self._bytes_out + self._segments.bytes_out

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
        return bool(self._words[LOAN] == self._peers.slot + 1)

    def give_back(self) -> None:
        """Return the loan, if this process has it, and the items at hand with it."""
        if not self.on_loan:
            return
        try:
            if self._acquire_get(LOCK_S) and self.on_loan:
                for _ in self._left:  # nobody steps on the hand any more: it ends with this iterator
                    self.got -= 1
                self._words[LOAN] = 0
        finally:
            self._release_get()
        self.getting.announce()

    def get(self) -> tuple[Any] | None:
        """One item, as a tuple; None if there is none to be had now. Raises `Unreadable`."""
        try:
            if self._acquire_get(LOCK_S) and not self._words[LOAN] and (item := self._next_of_batch()):
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
            if self._acquire_get(LOCK_S) and not self._words[LOAN]:
                while wanted > 0 and (found := self._next(self._words[GET_WORD])) is not None:
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
            if self._acquire_get(LOCK_S) and (not self._words[LOAN] or self._use_loan(items, wanted)):
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
        self._words[LOAN] = 0
        return True

    def _take(self, items: list[Any], wanted: int) -> None:
        """Add to `items` what is in the next frames, until there are `wanted`."""
        if wanted == 1 and not items and self.depth() > 1 and self._peers.is_only_consumer():
            self._fill_hand()
            items += [item for item, _ in islice(self.hand, 1)]
        else:
            self._take_lists(items, wanted)
        while len(items) < wanted:
            found = self._next(self._words[GET_WORD])
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
        word = self._words[GET_WORD]
        index = ((word >> 32) - self._batch_of) & MASK
        if index >= self._batch_quick or word & MASK != self._batch_head:  # numbers come again after 2**32 items
            return None
        self._words[GET_WORD] = (word + ONE) & WORD
        self.got += 1
        return (self._batch[index],)

    def _take_lists(self, items: list[Any], wanted: int) -> None:
        """The same of the frames that are lists and wanted whole, up to any other: what is usual, without detours."""
        words = self._words
        word = words[GET_WORD]
        while word >> 32 != words[PUT_WORD] >> 32:
            head = word & MASK
            at = HEADER_BYTES + head % RING_BYTES
            length, count, first, kind = FRAME.unpack_from(self._memory, at)
            if kind != MANY or first != word >> 32 or len(items) + count > wanted:
                return
            at += FRAME_BYTES
            try:
                items += unpack_list(self._bytes[at : at + length])
            except Exception:  # noqa: BLE001 -- anything may be raised: `_batch_at` finds out for whom it is
                return
            word = words[GET_WORD] = ((first + count) & MASK) << 32 | (head + ((length + 31) & ~15)) & MASK
            self.got += count
            self._bytes_out += length

    def _part(self, found: Found, wanted: int) -> Frame:
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
        word = self._words[GET_WORD]
        while len(items) < _HAND:
            found = self._next(word)
            if found is None or found.kind >= LARGE or found.first + found.items > MASK:
                break
            batch = self._batch_at(found)
            try:
                good = self._good(batch[found.start :], found, drop=not items)
            except Unreadable:
                if not items:
                    raise
                break
            items += good
            words += range(word + ONE, word + len(good) * ONE + 1, ONE)
            if found.start + len(good) < found.items:
                break
            word = words[-1] = words[-1] & ~MASK | found.after
        if not items:
            return
        self._words[LOAN] = self._peers.slot + 1
        self._left = iter(items)
        store: Callable[..., None] = operator.setitem
        self.hand = zip(self._left, map(store, repeat(self._words), repeat(GET_WORD), words), strict=False)
        self.got += len(items)

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
