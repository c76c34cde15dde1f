"""The thread that commits rows: whatever came while it was busy with the last commit goes into the next one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sage.errors import InternalError, SageError, StorageError
from sage.runtime.durability.row import Change, RowKind

MOST_AT_ONCE = 64
"""Sets of changes in one commit."""

LOOK_EVERY_S = 0.25
"""Whether there is room again."""

MOMENT_S = 0.0005
"""After a commit, until it is looked whether there is more. Results come in bursts, and to wake a thread costs the one
that does it more than all the rest of what it does to have its result kept."""

Told = Callable[[], None]


class Committer(Protocol):
    """What takes the changes."""

    def apply(self, changes: list[Change]) -> None:
        """All of them or none, and where they shall be when this returns."""


class RowStore(Committer, Protocol):
    """Rows, here or with the driver; what was applied is on the disk."""

    def get(self, kind: RowKind, key: bytes) -> bytes | None:
        """The value of a row, if there is one."""


class BlobStore(Protocol):
    """What becomes of large values."""

    def stored(self, value: bytes) -> bytes:
        """What to keep in a row for `value`."""

    def loaded(self, stored: bytes) -> bytes:
        """The value for which `stored` is kept."""


class Recorder:
    """Commits sets of changes in the order in which they were given, each whole. From any thread.

    Without room it waits, and commits when there is some. After the first failure nothing more is committed: waiting
    raises the error, and `on_failure` got it once.
    """

    def __init__(self, rows: Committer, blobs: BlobStore, on_failure: Callable[[SageError], None]) -> None:
        self._rows = rows
        self._blobs = blobs
        self._on_failure = on_failure
        self._given: deque[tuple[Sequence[Change], bool, Told | None]] = deque()
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._number = 0
        self._committed = 0
        self._closed = False
        self._hurry = threading.Event()
        self.stalled: SageError | None = None
        """Why nothing is committed at the moment."""
        self.failure: SageError | None = None
        self._thread = threading.Thread(target=self._run, name="sage-journal", daemon=True)
        self._thread.start()

    def record(self, changes: Sequence[Change], *, large: bool = False, told: Told | None = None) -> int:
        """Commit `changes` soon; their number, for `wait`. `told` is called on the journal's thread when they are on
        the disk, or after a failure. With `large`, values may become blobs."""
        with self._lock:
            self._number += 1
            number = self._number
            if self.failure is None and not self._closed:
                self._given.append((changes, large, told))
                self._news.notify()
                return number
        if told is not None:
            told()
        return number

    def wait(self, number: int) -> None:
        """Wait until the changes of this number, and all before them, are on the disk. Raises why they never will
        be."""
        with self._lock:
            while self._committed < number:
                self.check()
                if self._closed and not self._thread.is_alive():
                    raise InternalError("E990", "the journal was closed before it had stored everything")
                self._progress.wait()

    def check(self) -> None:
        """Raise the error that ended it, if one did."""
        if self.failure is not None:
            raise self.failure

    def hurry(self) -> None:
        """From now on, no room is a failure."""
        self._hurry.set()

    def close(self) -> None:
        """Commit what was given, and end the thread. Waits for no room."""
        self.hurry()
        with self._lock:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while some := self._next():
            try:
                self._commit([(changes, large) for changes, large, _ in some])
            except SageError as error:
                self._fail(error)
            with self._lock:
                self._committed += len(some)
                self._progress.notify_all()
            for _, _, told in some:
                if told is not None:
                    told()

    def _next(self) -> list[tuple[Sequence[Change], bool, Told | None]]:
        if self._committed and not self._given and not self._closed:
            time.sleep(MOMENT_S)
        with self._lock:
            while not self._given and not self._closed:
                self._news.wait()
            return [self._given.popleft() for _ in range(min(MOST_AT_ONCE, len(self._given)))]

    def _commit(self, some: list[tuple[Sequence[Change], bool]]) -> None:
        self.check()
        while True:
            try:
                self._rows.apply(
                    [self._sized(change) if large else change for changes, large in some for change in changes]
                )
            except StorageError as error:
                if error.code != "E601" or self._hurry.is_set():
                    raise
                self.stalled = error
                self._hurry.wait(LOOK_EVERY_S)
            else:
                self.stalled = None
                return

    def _sized(self, change: Change) -> Change:
        return change if change.value is None else change._replace(value=self._blobs.stored(change.value))

    def _fail(self, error: SageError) -> None:
        with self._lock:
            first, self.failure = self.failure is None, self.failure or error
        if first:
            self._on_failure(error)
