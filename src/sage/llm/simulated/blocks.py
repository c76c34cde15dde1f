"""The KV cache as a count of blocks, with prefix caching: full blocks are found again by their hash.

A block is *held* (full, hashed, shared by any number of sequences), *private* (of one sequence: not full yet, or the
copy of a block that another one holds), or *idle* (held by nobody, still found by its hash until its place is needed;
counts as free).
"""

from __future__ import annotations

from collections.abc import Sequence


class KVBlocks:
    """Blocks of one server. Never more than `capacity` are in use."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: dict[int, int] = {}
        """Hash -> number of sequences that hold it."""
        self._idle: dict[int, None] = {}
        """The one that was let go first stands first."""
        self._private = 0

    @property
    def used(self) -> int:
        return len(self._held) + self._private

    @property
    def free(self) -> int:
        """Negative after `capacity` was lowered below what is in use."""
        return self.capacity - self.used

    def resize(self, capacity: int) -> None:
        """Takes nothing from anybody: it is for the caller to give back what is too much."""
        self.capacity = capacity
        self._evict()

    def cached(self, hashes: Sequence[int], limit: int) -> int:
        """How many blocks at the front of `hashes[:limit]` need not be computed."""
        found = 0
        for block in hashes[:limit]:
            if block not in self._held and block not in self._idle:
                break
            found += 1
        return found

    def idle_among(self, hashes: Sequence[int]) -> int:
        """How many free blocks sharing `hashes`, all of them cached, would take."""
        return sum(block in self._idle for block in hashes)

    def share(self, hashes: Sequence[int]) -> None:
        """Hold blocks that `cached` found."""
        for block in hashes:
            if block in self._idle:
                del self._idle[block]
                self._held[block] = 1
            else:
                self._held[block] += 1

    def take(self, count: int) -> None:
        """`count` private blocks, which the caller knows to be free."""
        self._private += count
        self._evict()

    def publish(self, block: int) -> bool:
        """A private block is full and has this hash from now on; False if it stays private, being a copy."""
        if block in self._held:
            return False
        self._idle.pop(block, None)
        self._private -= 1
        self._held[block] = 1
        return True

    def give_back(self, held: Sequence[int], private: int) -> None:
        """The end of a sequence's blocks first, so that the start of a prefix stays longest."""
        for block in reversed(held):
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]
                self._idle[block] = None
        self._private -= private
        self._evict()

    def _evict(self) -> None:
        while self._idle and len(self._idle) > self.free:
            del self._idle[next(iter(self._idle))]
