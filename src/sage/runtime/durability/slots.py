"""Which calls are in flight, in a file that outlives the process: one slot for each, written before the call is made.

The file is memory to this process: to write costs no call to the system, and the kernel keeps what was written when the
process is killed. Nothing is synced, because who loses power loses no call to a record that kills its process.
"""

from __future__ import annotations

import heapq
import mmap
import os
import threading
from pathlib import Path
from typing import NamedTuple

from sage.runtime.durability.disk import storage_error

SLOT_BYTES = 256
RESERVED_SLOTS = 64
"""At a time."""
KEY_BYTES = 20
_MARK = ord("+")


class InFlight(NamedTuple):
    """A call that had not ended when its process did."""

    key: bytes
    step: str
    rid: str


class Slots:
    """The calls in flight of one process. `close` removes the file: nothing is in flight any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._used = 0
        self._taken = 0
        self._alone = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(path, error) from error
        self._reserved = 0
        self._memory: mmap.mmap

    def enter(self, call: InFlight, *, alone: bool = False) -> int | None:
        """A call is about to be made: its slot, or None if it must wait. One that is to be `alone` waits until
        no other is in flight, and others wait for it."""
        with self._lock:
            if self._alone or (alone and self._taken):
                return None
            slot = heapq.heappop(self._free) if self._free else self._used
            if slot >= self._reserved:
                self._reserve()
            self._used = max(self._used, slot + 1)
            self._taken += 1
            self._alone = alone
            self._write(slot * SLOT_BYTES, call)
        return slot

    def _write(self, start: int, call: InFlight) -> None:
        names = f"{call.step}\0{call.rid}".encode("utf-8", "surrogatepass")
        line = call.key + names[: SLOT_BYTES - 1 - KEY_BYTES]
        self._memory[start + 1 : start + SLOT_BYTES] = line.ljust(SLOT_BYTES - 1, b"\0")
        self._memory[start] = _MARK  # last, when the rest is there

    def _reserve(self) -> None:
        """Room for more slots, before a call is made. Raises `StorageError` E601 if there is none."""
        try:
            os.posix_fallocate(self._file, self._reserved * SLOT_BYTES, RESERVED_SLOTS * SLOT_BYTES)
            if self._reserved:
                self._memory.close()
            self._reserved += RESERVED_SLOTS
            self._memory = mmap.mmap(self._file, self._reserved * SLOT_BYTES)
        except OSError as error:
            raise storage_error(self._path, error) from error

    def leave(self, slot: int) -> None:
        """The call in this slot has ended, and its result is kept if it had one."""
        with self._lock:
            self._memory[slot * SLOT_BYTES] = 0
            heapq.heappush(self._free, slot)
            self._taken -= 1
            self._alone = False

    def close(self) -> None:
        with self._lock:
            if self._reserved:
                self._memory.close()
        os.close(self._file)
        self._path.unlink(missing_ok=True)


def left_in_flight(path: Path) -> list[InFlight]:
    """The calls that were in flight when the process died that wrote the file."""
    data = path.read_bytes()
    calls = []
    for start in range(0, len(data), SLOT_BYTES):
        slot = data[start : start + SLOT_BYTES]
        if len(slot) > KEY_BYTES and slot[0] == _MARK:
            names = slot[1 + KEY_BYTES :].rstrip(b"\0").decode("utf-8", "replace")
            step, _, rid = names.partition("\0")
            calls.append(InFlight(slot[1 : 1 + KEY_BYTES], step, rid))
    return calls
