"""Which calls are in flight, in a file that outlives the process: one slot for each, written before the call is made.

The kernel keeps what was written when the process is killed; nothing is synced, because who loses power loses no call
to a record that kills its process.
"""

from __future__ import annotations

import heapq
import os
import threading
from pathlib import Path
from typing import NamedTuple

from sage.runtime.durability.rows import storage_error

SLOT_BYTES = 256
RESERVED_SLOTS = 64
"""At a time."""
KEY_BYTES = 20
_MARK = b"+"


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
        names = f"{call.step}\0{call.rid}".encode("utf-8", "surrogatepass")
        line = (_MARK + call.key + names[: SLOT_BYTES - 1 - KEY_BYTES]).ljust(SLOT_BYTES, b"\0")
        os.pwrite(self._file, line, slot * SLOT_BYTES)
        return slot

    def _reserve(self) -> None:
        """Room for more slots, before a call is made. Raises `StorageError` E601 if there is none."""
        try:
            os.posix_fallocate(self._file, self._reserved * SLOT_BYTES, RESERVED_SLOTS * SLOT_BYTES)
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._reserved += RESERVED_SLOTS

    def leave(self, slot: int) -> None:
        """The call in this slot has ended, and its result is kept if it had one."""
        os.pwrite(self._file, b"\0", slot * SLOT_BYTES)
        with self._lock:
            heapq.heappush(self._free, slot)
            self._taken -= 1
            self._alone = False

    def close(self) -> None:
        os.close(self._file)
        self._path.unlink(missing_ok=True)


def left_in_flight(path: Path) -> list[InFlight]:
    """The calls that were in flight when the process died that wrote the file."""
    data = path.read_bytes()
    calls = []
    for start in range(0, len(data), SLOT_BYTES):
        slot = data[start : start + SLOT_BYTES]
        if slot[:1] == _MARK and len(slot) > KEY_BYTES:
            names = slot[1 + KEY_BYTES :].rstrip(b"\0").decode("utf-8", "replace")
            step, _, rid = names.partition("\0")
            calls.append(InFlight(slot[1 : 1 + KEY_BYTES], step, rid))
    return calls
