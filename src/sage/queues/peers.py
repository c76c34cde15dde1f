"""Which processes have a queue open, what they hold, and which of them died.

Each has a slot: a word with its roles, a word with the places it has reserved, a bell by which others call it, and a
lock on the byte of the file with the slot's number: the system drops the lock when the process ends, however it ends,
and keeps it while the process is merely stopped.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from sage.errors import QueueError
from sage.queues.robust import Bell

SLOTS = 128
OWNER_BYTE = SLOTS
PRODUCER, CONSUMER = 1, 2
_DEAD_AT = 960 // 8  # words: the last producer and consumer that died and were not replaced
_SLOTS_AT = 1024
_HELD_AT = 2048
_BELLS_AT = 3072
_AWAY_AT = 3584


class Peers:
    """The slots, as one process sees them."""

    def __init__(self, memory: mmap.mmap, fd: int, queue_id: str) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._slots = self._words[_SLOTS_AT // 8 : _SLOTS_AT // 8 + SLOTS]
        self._roles = memoryview(memory)[_SLOTS_AT : _SLOTS_AT + 8 * SLOTS : 8]
        self.held = self._words[_HELD_AT // 8 : _HELD_AT // 8 + SLOTS]
        """Places that each has reserved and not used. Changed under the put lock."""
        self.away = memoryview(memory)[_AWAY_AT : _AWAY_AT + 4 * SLOTS].cast("I")
        """Items that each took for somebody else. Changed under the get lock."""
        self._fd = fd
        self._queue_id = queue_id
        self.enter()

    def enter(self) -> None:
        """Take a slot. Raises `QueueError` E510 if there is none left."""
        self.roles = 0
        for slot in range(SLOTS):
            if not self._slots[slot] and _lock(self._fd, slot):
                self._slots[slot] = os.getpid() << 8
                self.slot = slot
                self.bell = self._bell_of(slot)
                return
        raise QueueError("E510", f"{SLOTS} processes have the queue open", at=f"queue {self._queue_id}")

    def take_role(self, role: int) -> None:
        """This process is a producer or a consumer from now on: those that died have a successor."""
        self.roles |= role
        self._slots[self.slot] = os.getpid() << 8 | self.roles
        self._words[_DEAD_AT + role] = 0

    def leave(self) -> None:
        """Give up the slot."""
        self._slots[self.slot] = 0
        self.let_go(self.slot)

    def is_only_consumer(self) -> bool:
        """Whether no other process takes items."""
        roles = self._roles.tobytes()
        return roles.count(CONSUMER) + roles.count(PRODUCER | CONSUMER) == 1

    def call_all(self) -> None:
        """Call every other process."""
        for slot, word in enumerate(self._slots.tolist()):
            if word and slot != self.slot:
                self.call(slot)

    def call(self, slot: int) -> None:
        """Ask the process of a slot to give up what it holds."""
        self._bell_of(slot).ring()

    def dead(self) -> list[int]:
        """The slots of processes that died. They are this process's own until `let_go`."""
        return [slot for slot in range(SLOTS) if self._slots[slot] and slot != self.slot and _lock(self._fd, slot)]

    def bury(self, slot: int) -> None:
        """The slot of a process that died is empty: what it had was recovered."""
        word = self._slots[slot]
        for role in (PRODUCER, CONSUMER):
            if word & role:
                self._words[_DEAD_AT + role] = word >> 8
        self._slots[slot] = 0

    def let_go(self, slot: int) -> None:
        """The opposite of what `dead` did."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, slot)

    def bereaved_of(self, role: int) -> int:
        """The process whose death left the queue without anybody of this role; 0 if there is none."""
        if any(word & role for word in self._slots.tolist()):
            return 0
        return int(self._words[_DEAD_AT + role])

    def _bell_of(self, slot: int) -> Bell:
        return Bell(self._memory, _BELLS_AT + 4 * slot)


def _lock(fd: int, byte: int) -> bool:
    """Lock a byte of the file, unless another process has."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return False
    return True


def take_ownership(fd: int) -> bool:
    """Hold the byte by which others see that the queue's owner is alive; False if another process holds it."""
    return _lock(fd, OWNER_BYTE)


def give_up_ownership(fd: int) -> None:
    """The opposite."""
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, OWNER_BYTE)


def nobody_is_there(fd: int) -> bool:
    """Whether every process that had the queue open is dead, its owner too."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, OWNER_BYTE + 1, 0)
    except OSError:
        return False
    return True
