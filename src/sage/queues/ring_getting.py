"""The getting half of a ring in shared memory.

A process that is the only consumer takes the ring's reading end on loan, with what is in the next frames at hand: each
step of a `Hand` gives an item or a list and stores the word, so that no other thread can come between. It returns the
loan when the hand is empty, or when another process calls for it.
"""

from __future__ import annotations

import mmap
from itertools import islice
from typing import Any

from sage.errors import QueueError
from sage.queues.frames import LOST, Frame, pack_many, unpack_list
from sage.queues.peers import Peers
from sage.queues.ring_hand import Hand
from sage.queues.ring_layout import (
    FRAME,
    FRAME_BYTES,
    GET_WORD,
    HEADER_BYTES,
    LARGE,
    LOAN,
    LOCK_S,
    MANY,
    MASK,
    ONE,
    PUT_WORD,
    RING_BYTES,
    WORD,
    Found,
)
from sage.queues.ring_reading import Reading, Unreadable
from sage.queues.segments import Segments

_HAND = 100  # items that are at hand at least, if they are there
_LISTS = 32  # that are at hand at most, and as many kilobytes: copied together, which is quicker


class Getting(Reading):
    """Not for users: `Ring` is."""

    def __init__(self, memory: mmap.mmap, peers: Peers, segments: Segments, max_bytes: int) -> None:
        super().__init__(memory, peers, segments, max_bytes)
        self.got = 0
        """Items taken by this process, those at hand too."""
        self._wanted = self._ahead = 1  # what was wanted last; so many lists of it are to be at hand, if it stays so
        self.clear_hand()

    def clear_hand(self) -> None:
        """Forget what is at hand: it stays in the ring."""
        self.hand = Hand()
        self.lists = Hand()
        """One of the two is empty."""

    @property
    def left(self) -> int:
        """Items at hand."""
        return self.hand.left + self.lists.left

    @property
    def on_loan(self) -> bool:
        """Whether this process has the reading end to itself."""
        return bool(self._words[LOAN] == self._peers.slot + 1)

    def give_back(self) -> None:
        """Return the loan, if this process has it, and what is at hand with it."""
        if not self.on_loan:
            return
        try:
            if self._acquire_get(LOCK_S) and self.on_loan:
                self._end_loan()
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
        """The same as frames, as they are in the ring (see `take_frames` of `Served`). They keep their places."""
        frames: list[Frame] = []
        self.give_back()
        try:
            if self._acquire_get(LOCK_S) and not self._words[LOAN]:
                while wanted > 0 and (found := self._next(self._words[GET_WORD])) is not None:
                    if found.start or found.items > wanted:
                        if not frames:
                            frames.append(self._part(found, wanted))
                        break
                    frames.append(self._lent(found, self._frame(found)))
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
        items += [item for item, _ in islice(self.hand.steps, wanted)]
        if self.hand.left:
            return False
        self._end_loan()
        return True

    def _end_loan(self) -> None:
        self.got -= self.hand.put_back() + self.lists.put_back()
        self._words[LOAN] = 0

    def _take(self, items: list[Any], wanted: int) -> None:
        """Add to `items` what is in the next frames, until there are `wanted`."""
        self._ahead = min(2 * self._ahead, _LISTS) if wanted == self._wanted else 1
        self._wanted = wanted
        if not items and self.depth() > wanted and self._peers.is_only_consumer():
            if wanted == 1:
                self._fill_hand()
                items += [item for item, _ in islice(self.hand.steps, 1)]
            elif self._ahead > 1:
                self._fill_lists(wanted)
                items += next(self.lists.steps, (items, None))[0]
        if len(items) < wanted:
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
        """Some items of a frame, packed anew; all of it where that cannot be: whoever gets it may be able to."""
        batch = self._batch_at(found)
        if self._salvaged == found.first and not found.start:
            return self._lent(found, self._frame(found))
        try:
            items = self._good(batch[found.start : found.start + wanted], found, drop=False)
            return self._lent(found, pack_many(list(items), by_value=True))
        except (Unreadable, QueueError):  # this process took what was before it, and cannot pass this on
            return self._lent(found, LOST)

    def _lent(self, found: Found, frame: Frame) -> Frame:
        """`frame`, which has the next items of the frame that was found, and is taken for somebody else."""
        self._take_away(frame.items)
        self._commit(found, frame.items)
        self.got += frame.items
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
        self.hand = Hand(items, words, self._words)
        self.got += len(items)

    def _fill_lists(self, wanted: int) -> None:
        """The same of the next small frames that are lists of as many as are wanted."""
        lists: list[list[Any]] = []
        words: list[int] = []
        word = self._words[GET_WORD]
        number, head = word >> 32, word & MASK
        used = ((self._words[PUT_WORD] & MASK) - head) & MASK
        start = HEADER_BYTES + head % RING_BYTES
        data = self._memory[start : min(start + min(used, _LISTS * 1024), HEADER_BYTES + RING_BYTES)]
        view, at, stop = memoryview(data), FRAME_BYTES, len(data)
        while at < stop and len(lists) < self._ahead:
            length, count, first, kind = FRAME.unpack_from(data, at - FRAME_BYTES)
            if kind != MANY or count != wanted or first != number or at + length > stop:
                break
            try:
                lists.append(unpack_list(view[at : at + length]))
            except Exception:  # noqa: BLE001 -- anything may be raised: `_batch_at` finds out for whom it is
                break
            number, at = (number + count) & MASK, at + ((length + 31) & ~15)
            words.append(number << 32 | (head + at - FRAME_BYTES) & MASK)
        if lists:
            self._words[LOAN] = self._peers.slot + 1
            self.lists = Hand(lists, words, self._words, each=wanted)
            self.got += len(lists) * wanted
