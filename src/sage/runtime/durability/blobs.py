"""What is too large for a row: files that are named by their content."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path

from sage.errors import StorageError
from sage.runtime.durability.disk import storage_error, sync_folder

LARGE_BYTES = 64 * 1024
"""A value of more goes into a file of its own."""
_NAME = re.compile(rb"[0-9a-f]{64}")
_INLINE, _BLOB = b"=", b"@"


class InRows:
    """Instead of `Blobs`: every value stands in its row, however large."""

    def stored(self, value: bytes) -> bytes:
        return value

    def loaded(self, stored: bytes) -> bytes:
        return stored


class Blobs:
    """A folder of them, in 256 folders. Raises `StorageError`: E611 when one cannot be written, E604 for one that is
    missing or not what its name says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stored(self, value: bytes) -> bytes:
        """What to keep in a row for `value`; a large one is on the disk when this returns."""
        return _INLINE + value if len(value) <= LARGE_BYTES else _BLOB + self._write(value)

    def loaded(self, stored: bytes) -> bytes:
        """The value for which `stored` is kept."""
        if stored[:1] == _INLINE:
            return stored[1:]
        if stored[:1] != _BLOB or not _NAME.fullmatch(stored[1:]):
            raise StorageError("E604", "a journal is damaged", at=str(self._folder), got=stored[:80])
        path = self._path(stored[1:].decode())
        try:
            value = path.read_bytes()
        except OSError as error:
            raise StorageError("E604", "a part of a journal is missing", at=str(path), got=error.strerror) from error
        if hashlib.sha256(value).hexdigest().encode() != stored[1:]:
            raise StorageError("E604", "a journal is damaged", at=str(path), got="another content than its name says")
        return value

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _write(self, value: bytes) -> bytes:
        name = hashlib.sha256(value).hexdigest()
        path = self._path(name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}")
            with open(draft, "wb", opener=lambda at, flags: os.open(at, flags, 0o600)) as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            for folder in (path.parent, self._folder, self._folder.parent):
                sync_folder(folder)
        except OSError as error:
            raise storage_error(path, error) from error
        return name.encode()
