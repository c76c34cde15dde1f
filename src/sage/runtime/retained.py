"""Sources that cannot be read again, in a run that may have to: what they brought is kept until it is finished."""

from __future__ import annotations

import threading
from collections import deque

from sage.flow.source import Chunk, Reader
from sage.runtime.durable import Progress
from sage.runtime.reading import bounds, unfinished


class Retained:
    """The reader of such a partition, over all attempts of a run: each reads through a `View` of its own."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._view: View
        self._open: deque[Chunk] = deque()
        self._again: deque[Chunk] = deque()

    def view(self, progress: Progress) -> View:
        """For the attempt that begins, `progress` being finished: what is not, but was read, comes first."""
        with self._lock:
            left = [unfinished(chunk, progress) for chunk in self._open]
            self._open = deque(chunk for chunk in left if bounds(chunk) is not None)
            self._again = self._open.copy()
            self._view = View(self)
            return self._view

    def read(self, view: View, max_records: int) -> Chunk | None:
        """What comes next for `view`; for one that is out of date, nothing does."""
        chunk = self._read_before(view)
        if chunk is None:
            with self._reading:  # an older view may still wait for the source
                chunk = self._read_before(view) or self._read_on(view, max_records)
        return chunk

    def forget(self, progress: Progress) -> None:
        """What is finished is not needed any more."""
        with self._lock:
            self._open = deque(chunk for chunk in self._open if not all(map(progress.covers, bounds(chunk) or ())))

    def close(self) -> None:
        """The run is over. While a view still waits for the source, it is left to itself."""
        if self._reading.acquire(blocking=False):
            self._reader.close()

    def _read_before(self, view: View) -> Chunk | None:
        with self._lock:
            return self._again.popleft() if self._again and view is self._view else None

    def _read_on(self, view: View, max_records: int) -> Chunk | None:
        if view is not self._view:
            return None
        chunk = self._reader.read(max_records)
        with self._lock:
            if chunk is not None:
                self._open.append(chunk)
            if view is self._view:
                return chunk
            if chunk is not None:  # meanwhile there is a newer view
                self._again.append(chunk)
        return None


class View(Reader):
    """What one attempt reads."""

    def __init__(self, retained: Retained) -> None:
        self._retained = retained

    def read(self, max_records: int) -> Chunk | None:
        return self._retained.read(self, max_records)
