"""Dead letters: records that failed for good, kept with their reason, as JSON Lines that can be mended and replayed."""

from __future__ import annotations

import os
import threading
import traceback
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

from sage import codec
from sage.clock import SYSTEM_CLOCK, Clock
from sage.errors import SageError, StorageError, shorten
from sage.runtime.letters import letter_of, lines

MAX_TRACEBACK_CHARS = 8_000


class LetterBox(ABC):
    """Where records go that failed for good: into the file, or on their way to the process that writes it."""

    def __init__(self, pipeline: str, run_id: str, clock: Clock) -> None:
        self._pipeline = pipeline
        self._run_id = run_id
        self._clock = clock

    def add(self, rid: str, step: str, error: Exception, attempts: int, record: Any) -> None:
        """Keep one record that failed at `step`; `record` is what the step was given."""
        letter = {
            "rid": rid,
            "step": step,
            "reason": reason_of(error),
            "code": error.code if isinstance(error, SageError) else "E411",
            "attempts": attempts,
            "traceback": traceback_of(error),
            "pipeline": self._pipeline,
            "run": self._run_id,
            "at": datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="milliseconds"),
        }
        self.keep(Sealed(_encode(letter, record), f"{step}: {letter['reason']}", (rid, step)))

    @abstractmethod
    def keep(self, letter: Sealed) -> None:
        """Keep a letter."""

    @abstractmethod
    def check_limit(self) -> None:
        """Raise `StorageError` if there are more than the run may have."""


class Sealed(NamedTuple):
    """A dead letter as it stands in the file."""

    line: bytes
    reason: str
    whose: tuple[str, str]
    """The rid of the record, and the step at which it failed."""


class DeadLetters(LetterBox):
    """The dead-letter file of one run; made when the first record fails. An older file is kept as ``<name>.old``.

    Safe to use from several threads. Raises `StorageError` when the file cannot be written.
    """

    def __init__(
        self, path: Path, pipeline: str, run_id: str, most: int | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        super().__init__(pipeline, run_id, clock)
        self.path = path
        self.count = 0
        self.last_reason = ""
        self._most = most
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._known: set[tuple[str, str]] = set()
        """Whose letters earlier runs of the job have kept."""
        self._earlier = 0

    def go_on(self) -> None:
        """Add to the file of the earlier runs of this job; a record that failed then and fails again has one letter.

        Raises `StorageError` if the file cannot be read or written, or has a line that is no letter."""
        self._check()
        if not self.path.exists():
            return
        try:
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):  # the run was killed while it wrote
                os.truncate(self.path, whole)
        except OSError as error:
            raise self._unwritten(error) from error
        for line in lines(BytesIO(data[:whole])):
            letter = letter_of(line, str(self.path))
            self._known.add((letter.rid, letter.step))
        self._earlier = len(self._known)

    def begin_again(self) -> None:
        """The run begins again while it lives: what failed before and fails again has one letter. Raises as `go_on`."""
        self.close()
        self.count = 0
        self._known.clear()
        self.go_on()

    @property
    def earlier(self) -> int:
        """Letters of earlier runs or attempts whose records have not come again."""
        return self._earlier

    def set_aside(self) -> None:
        """Keep the file of an earlier run as ``<name>.old``, so that what is there afterwards is of this run.

        Raises `StorageError` if dead letters could not be written."""
        self._check()
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".old"))

    def _check(self) -> None:
        folder = self.path.parent
        if self.path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            got = "a folder" if self.path.is_dir() else f"no writable folder {folder}"
            raise StorageError(
                "E651", "cannot write dead letters", at=str(self.path), got=got, try_="another path (--dead-letters)"
            )

    def keep(self, letter: Sealed) -> None:
        with self._lock:
            if letter.whose in self._known:
                self._known.discard(letter.whose)
                self._earlier -= 1
                self.count += 1
                return
            try:
                if self._file is None:
                    self._file = self.path.open("ab")
                self._file.write(letter.line + b"\n")
                self._file.flush()
            except OSError as failure:
                raise self._unwritten(failure) from failure
            self.count += 1
            self.last_reason = letter.reason

    def check_limit(self) -> None:
        if self._most is not None and self.count + self._earlier > self._most:
            raise StorageError(
                "E652", f"more than {self._most} dead letters", at=str(self.path), got=self.last_reason,
                try_="mend the cause, or raise max_dead_letters",
            )  # fmt: skip

    def sync(self) -> None:
        """Have the disk take what was written so far."""
        with self._lock:
            if self._file is not None:
                self._synced(self._file)

    def close(self) -> None:
        """Make what was written durable."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with file:
                    self._synced(file)

    def _synced(self, file: IO[bytes]) -> None:
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> StorageError:
        return StorageError("E651", "cannot write dead letters", at=str(self.path), got=error.strerror)


def reason_of(error: BaseException) -> str:
    """One line: the text of SAGE's own errors as it is, others with their type."""
    if isinstance(error, SageError):
        return str(error)
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001 -- a broken __str__ must not hide the error being reported
        text = f"(its text could not be made: {type(second).__name__})"
    return shorten(f"{type(error).__name__}: {text}", 500)


def traceback_of(error: Exception) -> str | None:
    """The traceback as text (the exception object itself often cannot be kept); None if it was never raised."""
    if error.__traceback__ is None:
        return None
    text = "".join(traceback.format_exception(error))
    return text.encode("utf-8", "backslashreplace").decode()[-MAX_TRACEBACK_CHARS:]


def _encode(letter: dict[str, Any], record: Any) -> bytes:
    try:
        return codec.encode({**letter, "input": record, "replayable": True})
    except SageError as error:
        return codec.encode({**letter, "input": shorten(record, 10_000), "replayable": False, "why_not": str(error)})
