"""A tree of files: a record a file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sage.connectors.files import changed_error, open_error
from sage.connectors.lines import MAX_RECORD_BYTES, RAW_BYTES, not_utf8, too_large
from sage.errors import RecordError, SourceError
from sage.flow.source import Chunk, Fault, Reader, Source

NO_SIZE = -1
"""Of a file that cannot be asked."""


@dataclass(frozen=True)
class Directory(Source):
    """The text files below `root`, sorted by path: each is ``{"path": <relative to root>, "text": <content>}``.

    `pattern` is that of `pathlib.Path.glob`. Links to folders are not followed, and links to files only within `root`.
    A position is the place in the sorted list; the partition id names the tree by the paths and sizes of its files, so
    that a tree with a file more is another one. A file that cannot be read, or is not UTF-8, is a fault.
    """

    root: str | os.PathLike[str]
    pattern: str = "**/*.txt"
    max_record_bytes: int = MAX_RECORD_BYTES

    def check(self) -> None:
        if not self._files():
            raise SourceError(
                "E301", "no file matches", at=f"{os.fspath(self.root)}/{self.pattern}", try_="pattern='**/*'"
            )

    def partitions(self) -> Sequence[str]:
        return (self._partition(self._files()),)

    def open(self, partition: str, position: int = 0) -> Reader:
        files = self._files()
        found = self._partition(files)
        if found != partition:
            raise changed_error(os.fspath(self.root), got=found, expected=partition)
        return DirectoryReader(Path(self.root), files, position, self.max_record_bytes)

    def _files(self) -> list[tuple[str, int]]:
        """Relative path and size of each file; `NO_SIZE` where reading it will say why."""
        root = Path(self.root)
        if not root.is_dir():
            try_ = f"Text({str(root)!r})" if root.exists() else str(root.parent)
            raise SourceError("E301", "there is no such folder", at=str(root), try_=try_)
        real_root = root.resolve()
        files = []
        try:
            for path in root.glob(self.pattern):
                if (size_bytes := _size_of(path, real_root)) is not None:
                    files.append((path.relative_to(root).as_posix(), size_bytes))
        except (OSError, ValueError, NotImplementedError) as error:
            raise SourceError(
                "E306", "the folder cannot be searched", at=f"{root}/{self.pattern}", got=str(error)
            ) from error
        return sorted(files)

    def _partition(self, files: Sequence[tuple[str, int]]) -> str:
        listing = "".join(f"{name}\0{size_bytes}\0" for name, size_bytes in files)
        digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return f"{quote(Path(self.root).resolve().name, errors='surrogateescape')}@{digest}"


def _size_of(path: Path, real_root: Path) -> int | None:
    """None for what is no file, or not within the root."""
    try:
        status = path.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) and path.resolve().is_relative_to(real_root) else None
    except OSError:  # a link to nothing, or to itself
        return NO_SIZE


class DirectoryReader(Reader):
    """The files of a tree, in order."""

    def __init__(self, root: Path, files: Sequence[tuple[str, int]], position: int, max_record_bytes: int) -> None:
        self._root = root
        self._files = files
        self._next = position
        self._max_record_bytes = max_record_bytes

    def read(self, max_records: int) -> Chunk | None:
        start, stop = self._next, min(self._next + max_records, len(self._files))
        if start >= stop:
            return None
        chunk = Chunk([], positions := [], faults := [])
        held_bytes = 0
        while self._next < stop and held_bytes < self._max_record_bytes:
            name, size_bytes = self._files[self._next]
            try:
                chunk.records.append({"path": name, "text": self._text(name, size_bytes)})
                positions.append(self._next)
                held_bytes += size_bytes
            except RecordError as error:
                faults.append(Fault(self._next, name, error))
            self._next += 1
        return chunk

    def _text(self, name: str, size_bytes: int) -> str:
        path = self._root / name
        if size_bytes > self._max_record_bytes:
            raise too_large(size_bytes, self._max_record_bytes, str(path))
        try:
            name.encode()
            data = path.read_bytes()
        except UnicodeEncodeError as error:
            raise RecordError("E403", "the name of the file is not UTF-8", at=repr(str(path))) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and size_bytes != NO_SIZE:
                raise changed_error(str(path), got="no file", expected=f"{size_bytes} bytes") from error
            raise RecordError(
                "E408", "the file cannot be read", at=str(path), got=str(open_error(str(path), error))
            ) from error
        if len(data) != size_bytes:
            raise changed_error(str(path), got=f"{len(data)} bytes", expected=f"{size_bytes} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise not_utf8(data[:RAW_BYTES], error, str(path)) from error
