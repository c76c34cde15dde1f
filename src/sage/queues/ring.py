"""The ring of frames in shared memory: many writers, many readers, each side under a robust lock of its own.

All that changes with a put is one word, ``items put << 32 | bytes written``, stored after the frame; all that changes
with a get is the same word of the other side. So a process that is killed at any moment leaves a ring that is whole,
and an item is in it from the moment its frame was put until the moment a get took it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from sage.errors import QueueError
from sage.queues.frames import Frame
from sage.queues.ring_getting import Getting
from sage.queues.ring_layout import AWAY, ENDED, GET_WORD, HELD, LARGE, LOAN, LOCK_S, MASK
from sage.queues.ring_putting import Putting


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
        return self.held & MASK


class Ring(Putting, Getting):
    """The ring, as one process sees it. No method waits, but for a lock that is held for microseconds."""

    @property
    def ended(self) -> bool:
        """Whether somebody was told that the queue is closed and nothing is left."""
        return self._closed[0] == ENDED

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
            self._closed[0] = ENDED
            return True
        finally:
            self._release_put()

    def claims(self) -> Claims:
        """What processes hold now."""
        return Claims(self._words[HELD], self._words[LOAN], self._words[AWAY])

    def call_holders(self, claims: Claims) -> None:
        """Ask other processes to put what they hold into the ring, to give back the rest, and to confirm."""
        slots = {claims.loan - 1} if claims.loan else set()
        if claims.places:
            slots |= {slot for slot, places in enumerate(self._peers.held.tolist()) if places}
        if claims.away:
            slots |= {slot for slot, items in enumerate(self._peers.away.tolist()) if items}
        for slot in slots - {self._peers.slot}:
            self._peers.call(slot)

    def confirm(self, count: int) -> None:
        """So many of the items that `get_frames` took were got."""
        try:
            self._acquire_get(LOCK_S)
            self._take_away(-count)
        finally:
            self._release_get()
        self.putting.announce()

    def put_back(self, frame: Frame) -> bool:
        """Put what `get_frames` took and nobody got; False if there is no room for its bytes, or the end was told."""
        try:
            if not self._acquire_put(LOCK_S):
                return False
            self._hold(frame.items)
        finally:
            self._release_put()
        with suppress(QueueError):  # its end was told meanwhile
            if self.put(frame, held=True):
                self.got -= frame.items
                self.confirm(frame.items)
                return True
        self.release(frame.items)
        return False

    def recover(self) -> None:
        """Make up for processes that died."""
        for slot in self._peers.dead():
            try:
                if self._acquire_put(LOCK_S) and self._acquire_get(LOCK_S):
                    self._peers.held[slot] = self._peers.away[slot] = 0
                    self._recount()
                    self._recount_away()
                    if self._words[LOAN] == slot + 1:
                        self._words[LOAN] = 0
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
        word = self._words[GET_WORD]
        while (found := self._next(word)) is not None:
            if found.kind >= LARGE:
                areas.add(self._area_of(found))
            word = ((found.first + found.items) & MASK) << 32 | found.after
        return areas
