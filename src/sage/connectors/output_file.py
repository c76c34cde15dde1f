"""An output file while it is written: beside its place until it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import closing, suppress
from io import FileIO
from typing import Any, BinaryIO, cast
from zlib import crc32

from sage.connectors.input import InputFile
from sage.connectors.output_errors import translated
from sage.errors import SinkError, SourceError


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
            if self._last_byte() not in (b"", b"\n"):
                self._add_newline()
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

    def _last_byte(self) -> bytes:
        """Of what is at the final place, decompressed."""
        last = b""
        try:
            with closing(InputFile(self.path)) as existing:
                if not self._is_gzip:
                    existing.seek(os.path.getsize(self._final) - 1)
                while data := existing.read(1 << 20):
                    last = data[-1:]
        except SourceError as error:
            raise SinkError("E554", "the output that is there cannot be read", at=self.path, got=str(error)) from error
        return last

    def _add_newline(self) -> None:
        if self._is_gzip:
            import gzip

            self._raw.write(gzip.compress(b"\n", mtime=0))  # a member of its own
        else:
            self._raw.write(b"\n")

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
