"""Files as sinks: an output file appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO, ClassVar, Literal, cast
from zlib import crc32

from sage.errors import SinkError
from sage.flow.sink import Rejected, Sink, SinkContext, SyncedWriter, Writer

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class FileSink(Sink):
    """Writes one file: what is there is replaced when the run ends well or, with `SinkContext.append`, added to."""

    path: str | os.PathLike[str]
    safe: ClassVar[Literal["at_commit", "at_sync", "at_write"]] = "at_sync"

    @abstractmethod
    def writer(self, file: OutputFile, context: SinkContext) -> FileWriter:
        """The writer that fills `file`; one that goes on at ``context.place`` does not copy what is there."""

    def check(self) -> None:
        check_writable(os.fspath(self.path))

    def open(self, context: SinkContext) -> Writer:
        path = os.fspath(self.path)
        check_writable(path)
        if context.committing and context.place is not None and is_committed(path, context.job):
            return Committed()
        file = OutputFile(path, context.job, context.place)
        try:
            return self.writer(file, context)
        except BaseException:
            file.discard()
            raise


class FileWriter(SyncedWriter):
    """Writes to an `OutputFile`."""

    def __init__(self, file: OutputFile) -> None:
        self.file = file

    def sync(self) -> Any:
        return self.file.sync()

    def commit(self) -> None:
        self.file.commit()

    def abort(self) -> str | None:
        return self.file.put_aside()


class Committed(SyncedWriter):
    """The output is in its place already: the run was killed after that, and before it could say so."""

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        raise SinkError("E558", "there is more to write, but the output was put in place", at="a job that goes on")

    def sync(self) -> Any:
        return None

    def commit(self) -> None:
        """It is."""

    def abort(self) -> str | None:
        return None


class OutputFile:
    """A file that is being written beside its final place, ``.<name>.sage-tmp`` in the same folder.

    The kernel's lock on that file keeps a second run out, and vanishes with the process; so the file of a killed run is
    known by its name and by not being locked, and is used again. A link is followed: what it points to is replaced.

    That of a job with a directory is called ``.<name>.<job>.sage-part``. It stays when a run ends before the job does,
    and the next run goes on at `place`: what was written after that is cut off.
    """

    def __init__(self, path: str, job: str = "", place: Any = None) -> None:
        self.path = path
        self.goes_on = place is not None
        """It begins with what earlier runs of the job wrote."""
        self._job = job
        self._final = os.path.realpath(path)
        folder, name = os.path.split(self._final)
        self._folder = folder
        self._partial = f"{self._final}.partial"
        self._temporary = _part(self._final, job) if job else os.path.join(folder, f".{name}.sage-tmp")
        self._crc = 0
        with translated(path):
            self._raw = _lock(self._temporary, path)
            try:
                self._cut_off(0 if place is None else place["bytes"], 0 if place is None else place["crc"])
                if os.path.exists(self._final):
                    os.fchmod(self._raw.fileno(), stat.S_IMODE(os.stat(self._final).st_mode))
            except BaseException:
                self.discard()
                raise
        self._gzip: BinaryIO | None = None
        self._torn = False
        self._copied_bytes = 0

    @property
    def has_content(self) -> bool:
        """Whether there is something at the final place that can be added to."""
        return os.path.exists(self._final) and os.path.getsize(self._final) > 0

    def copy_existing(self) -> None:
        """Begin with what is at the final place, if anything; a last line without newline gets one."""
        if self.goes_on or not self.has_content:
            return
        with translated(self.path), open(self._final, "rb") as existing:
            shutil.copyfileobj(existing, self._raw, 1 << 20)
            if not self._is_gzip:
                existing.seek(-1, os.SEEK_END)
                if existing.read(1) != b"\n":
                    self._raw.write(b"\n")
        self._copied_bytes = self._raw.tell()

    def write(self, data: bytes) -> None:
        """All of `data` or, with a `SinkError`, none of it (of a compressed file, the beginning may remain: that is its
        end)."""
        if self._torn:
            raise SinkError("E556", "a compressed output was cut short, and cannot be continued", at=self.path)
        before = self._raw.tell()
        with translated(self.path):
            try:
                if self._is_gzip:
                    self._compressed().write(data)
                else:
                    self._raw.write(data)
            except OSError:
                self._torn = self._is_gzip
                if not self._is_gzip:
                    self._raw.truncate(before)
                    self._raw.seek(before)
                raise

    def stream(self) -> BinaryIO:
        """The file itself, for a library that writes it. Use no `write` then."""
        return self._raw

    def sync(self) -> dict[str, int]:
        """Have the disk take what was written; the place for the next run. A compressed file gets a new member here."""
        with translated(self.path):
            if self._gzip is not None:
                self._gzip.close()
                self._gzip = None
            os.fsync(self._raw.fileno())
            end = self._raw.tell()
            while self._checked < end:
                data = os.pread(self._raw.fileno(), min(1 << 20, end - self._checked), self._checked)
                self._crc = crc32(data, self._crc)
                self._checked += len(data)
        return {"bytes": end, "crc": self._crc}

    def commit(self) -> None:
        """Put the file in its final place, and wait until the disk has it."""
        with translated(self.path):
            if self._is_gzip:
                self._compressed().close()
            os.fsync(self._raw.fileno())
            os.replace(self._temporary, self._final)
            _sync_folder(self._folder)
            self._raw.close()

    def put_aside(self) -> str | None:
        """Keep what was written, if anything, as ``<name>.partial`` in place of an older one; returns that path. That
        of a job stays where it is."""
        if self._job:
            with suppress(OSError):  # the next run cuts it off
                self.sync()
            self._raw.close()
            return None
        with translated(self.path):
            if self._gzip is not None:
                with suppress(OSError):  # on a full disk the end is missing, and what is there can still be read
                    self._gzip.close()
            if self._raw.tell() == self._copied_bytes:
                self.discard()
                return None
            os.replace(self._temporary, self._partial)
            self._raw.close()
        return self._partial

    def reopened(self) -> BinaryIO:
        """What was written so far, to be read; the caller closes it."""
        with translated(self.path):
            return open(self._temporary, "rb")

    def remove(self) -> None:
        """A job's own, when its output was put in place by another way."""
        with translated(self.path):
            os.unlink(self._temporary)
            _sync_folder(self._folder)
            self._raw.close()

    def discard(self) -> None:
        """Remove what was written, but for a job's."""
        if self._job:
            self._raw.close()
            return
        os.unlink(self._temporary)
        self._raw.close()

    def _cut_off(self, size: int, crc: int) -> None:
        """Go on behind the first `size` bytes, which must be there and have this checksum."""
        found = 0
        with open(self._raw.fileno(), "rb", closefd=False) as file:
            left = size
            while left and (data := file.read(min(left, 1 << 20))):
                found = crc32(data, found)
                left -= len(data)
        if left or found != crc:
            raise SinkError(
                "E558", "what earlier runs of the job had written is gone or was changed", at=self._temporary,
                expected=f"{size:,} bytes as they were written", try_="put it back, or use another job directory",
            )  # fmt: skip
        self._raw.truncate(size)
        self._raw.seek(size)
        self._crc, self._checked = crc, size

    @property
    def _is_gzip(self) -> bool:
        return self.path.endswith(".gz")

    def _compressed(self) -> BinaryIO:
        if self._gzip is None:
            import gzip

            stream = gzip.GzipFile(filename="", fileobj=cast(Any, self._raw), mode="wb", mtime=0)
            self._gzip = cast(BinaryIO, stream)
        return self._gzip


def _part(final: str, job: str) -> str:
    folder, name = os.path.split(final)
    return os.path.join(folder, f".{name}.{job}.sage-part")


def is_committed(path: str, job: str) -> bool:
    """Whether the output of a job, which was being put in place when its last run was killed, is there."""
    final = os.path.realpath(path)
    return os.path.exists(final) and not os.path.lexists(_part(final, job))


def check_writable(path: str) -> None:
    """Raise `SinkError` if no file can be written at `path`. Touches nothing; folders are not made."""
    if not path or "\0" in path:
        raise SinkError("E551", "this is not a path", at="a file sink", got=repr(path), try_="output.jsonl")
    if not {"*", "?"}.isdisjoint(path):
        raise SinkError("E551", "an output is one file, not a pattern", at=path, try_="a path without * and ?")
    final = os.path.realpath(path)
    folder = os.path.dirname(final)
    if path.endswith(os.sep) or os.path.isdir(final):
        raise SinkError("E551", "this is a folder, not a file", at=path, try_=os.path.join(path, "output.jsonl"))
    if os.path.exists(final) and not os.path.isfile(final):
        raise SinkError("E551", "this is not a regular file", at=path, try_="Stdout() to write to a pipe")
    if not os.path.isdir(folder):
        raise SinkError("E550", "the folder of the output is not there", at=path, try_=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(path, folder)
    if os.path.exists(final) and not os.access(final, os.W_OK):
        raise SinkError("E551", "the output is there and is read-only", at=path, try_=f"chmod u+w {path}")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn an `OSError` into a `SinkError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise sink_error(path, error) from error


def sink_error(path: str, error: OSError) -> SinkError:
    """`error`, raised while writing `path`, in the user's words."""
    folder = os.path.dirname(os.path.realpath(path))
    if error.errno in _FULL:
        return SinkError(
            "E552",
            "no space left for the output",
            at=path,
            got=error.strerror,
            try_=f"make room in {folder}, then run again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return _not_writable(path, folder)
    return SinkError("E556", "the output cannot be written", at=path, got=str(error))


def _not_writable(path: str, folder: str) -> SinkError:
    return SinkError(
        "E551", "the folder of the output cannot be written to", at=path, got=folder, try_="another folder"
    )


def _lock(temporary: str, path: str) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        raw = cast(BinaryIO, _WholeWrites(os.open(temporary, flags, 0o666), "r+"))
        try:
            fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(raw, temporary):
                return raw
        except BlockingIOError as error:
            raw.close()
            try_ = "another output path, or wait for the other run to end"
            raise SinkError("E553", "another run is writing this output", at=path, try_=try_) from error
        except BaseException:
            raw.close()
            raise
        raw.close()  # its owner moved it into place between our open and our lock


def _is_at(raw: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(raw.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


class _WholeWrites(FileIO):
    """A file of which every write is whole: a nearly full disk takes a part, and only the write after it fails.

    Who writes through it (gzip, pyarrow, shutil) does not look at what `write` returns.
    """

    def write(self, data: Any) -> int:
        whole = rest = memoryview(data).cast("B")
        while rest:
            rest = rest[super().write(rest) :]
        return len(whole)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
