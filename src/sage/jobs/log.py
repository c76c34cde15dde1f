"""The log of a job, read piece by piece, and waited for without asking again and again. Linux only."""

from __future__ import annotations

import codecs
import ctypes
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sage.errors import StorageError

PIECE_BYTES = 256 * 1024
MAX_WAIT_S = 20.0
"""Then whoever waits asks again."""
_MODIFIED, _ATTRIBUTES, _CREATED = 0x2, 0x4, 0x100
_NONBLOCK = 0x800
_EVENTS_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a log."""

    text: str
    next_offset: int
    """Where the next piece begins, in bytes."""
    ended: bool
    """Nothing will follow, unless the job is resumed."""


def read_piece(log: Path, offset: int, ended: Callable[[], bool], wait_s: float) -> Piece:
    """What the log has from `offset` on; if that is nothing, wait up to `wait_s` seconds for more, or for the end.

    A character is never cut in two, and what is not UTF-8 is replaced.
    """
    until = time.monotonic() + wait_s
    with _Changes(log.parent) as changes:
        while True:
            over = ended()  # asked first: what was written before the end is then read
            data = _read(log, offset)
            at_end = over and len(data) < PIECE_BYTES
            text, used = codecs.utf_8_decode(data, "replace", at_end)
            left_s = until - time.monotonic()
            if text or over or left_s <= 0:
                return Piece(text, offset + used, at_end)
            changes.wait(left_s)


def _read(log: Path, offset: int) -> bytes:
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)
    except FileNotFoundError:  # it was not started yet
        return b""


class _Changes:
    """Something was written in a folder, or made in it, or the folder was touched."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | _NONBLOCK)
        mask = _MODIFIED | _ATTRIBUTES | _CREATED
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), mask) < 0:
            why = os.strerror(ctypes.get_errno())
            if self._fd >= 0:
                os.close(self._fd)
            raise StorageError("E650", "the log of the job cannot be watched", at=str(folder), got=why)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def wait(self, timeout_s: float) -> None:
        """Return at the next change, or when the time is over."""
        if select.select([self._fd], [], [], timeout_s)[0]:
            with suppress(BlockingIOError):
                os.read(self._fd, _EVENTS_BYTES)
