"""The file of a queue in this process: opened once and mapped once, however often the queue is opened there.

The system drops all locks that a process has on a file when the process closes any descriptor of it, also the one that
each map keeps. By these locks others see that the process is alive (`peers.py`). So nothing of a file is closed here
before all of it is: a handle that takes the place of one that was given up shares its descriptor and its maps.
"""

from __future__ import annotations

import mmap
import os
import weakref

from sage.queues.ring_layout import HEADER_BYTES, RING_BYTES


class Mapping:
    """The descriptor and the maps, for those who have a reference. With the last one they are closed."""

    def __init__(self, fd: int) -> None:
        """From now on `fd` is this one's to close."""
        self.fd = fd
        weakref.finalize(self, os.close, fd).atexit = False
        self.memory = mmap.mmap(fd, HEADER_BYTES + RING_BYTES)
        self._areas: dict[tuple[int, int], mmap.mmap] = {}
        _known[_identity(os.fstat(fd))] = self

    def area(self, at: int, size: int) -> mmap.mmap:
        """The map of so many bytes of the file."""
        found = self._areas.get((at, size))
        if found is None:
            found = self._areas[at, size] = mmap.mmap(self.fd, size, offset=at)
        return found


def known(about: os.stat_result) -> Mapping | None:
    """What this process has of the file, if anything."""
    return _known.get(_identity(about))


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino


_known: weakref.WeakValueDictionary[tuple[int, int], Mapping] = weakref.WeakValueDictionary()
