"""A file opened for reading: bytes out, every failure a `SourceError` that names the file."""

from __future__ import annotations

import os
import zlib
from io import FileIO
from typing import BinaryIO, cast

from sage.connectors.files import changed_error, open_error
from sage.errors import SourceError


class InputFile:
    """The bytes of `path`, decompressed if its name ends in ``.gz``; positions count decompressed bytes.

    Moving forward in a compressed file reads all that lies before. Noticed at the end: a file that was cut short or
    written to meanwhile.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file: BinaryIO = cast(BinaryIO, FileIO(path))
        except OSError as error:
            raise open_error(path, error) from error
        self._opened = os.fstat(self._file.fileno())
        self._stream = _decompressed(self._file) if path.endswith(".gz") else self._file

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise _read_error(self.path, error) from error
        if not data:
            self._check_unchanged()
        return data

    def seek(self, position: int) -> None:
        """Go to `position`, counted in decompressed bytes."""
        try:
            self._stream.seek(position)
        except (OSError, EOFError, zlib.error) as error:
            raise _read_error(self.path, error) from error

    def close(self) -> None:
        self._stream.close()
        self._file.close()

    def _check_unchanged(self) -> None:
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise changed_error(
                self.path, got=f"{now.st_size} bytes", expected=f"{self._opened.st_size} bytes, untouched"
            )


def _decompressed(file: BinaryIO) -> BinaryIO:
    import gzip

    return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))


def _read_error(path: str, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.errno is not None:
        return open_error(path, error)
    # what is left comes from decompressing: the end came too early, a checksum is wrong, or it never was gzip
    return SourceError("E305", "broken gzip file", at=path, got=str(error), try_=f"gzip -t {path}, then copy it again")
