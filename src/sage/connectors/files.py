"""Files as sources: which files a path means, whether they can be read, and the partition id that names their bytes."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from sage.errors import SourceError
from sage.flow.source import Reader, Source

SAMPLE_BYTES = 64 * 1024
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class FileSource(Source):
    """A source that reads one file or all files of a glob, each as a partition of its own.

    A partition id is ``<name>@<fingerprint>``. The name is relative to the fixed part of the glob; the fingerprint is
    of the size and of the first and last 64 KB. The time of modification is left out on purpose: a copied or touched
    file keeps its rids, so that nothing is paid for again. A file that no longer has its fingerprint, or
    that changes while it is read, is refused with E302.
    """

    path: str | os.PathLike[str]
    """A file, or a glob such as ``parts/**/*.jsonl``; relative to the current directory of the run."""

    @abstractmethod
    def open_file(self, path: str, position: int) -> Reader:
        """Read the file `path`, which is there and has not changed, from `position` on."""

    def check(self) -> None:
        for path in find_files(os.fspath(self.path)):
            check_readable(path)

    def partitions(self) -> Sequence[str]:
        given = os.fspath(self.path)
        return [partition_id(path, _name(given, path)) for path in find_files(given)]

    def open(self, partition: str, position: int = 0) -> Reader:
        given = os.fspath(self.path)
        name = unquote(partition.rpartition("@")[0], errors="surrogateescape")
        path = os.path.join(fixed_folder(given), name) if is_glob(given) else given
        check_readable(path)
        found = partition_id(path, _name(given, path))
        if found != partition:
            raise changed_error(path, got=found, expected=partition)
        return self.open_file(path, position)


def find_files(path: str) -> list[str]:
    """The files that `path` means, sorted. A path without wildcards is returned without looking."""
    if not is_glob(path):
        return [path]
    found = sorted(match for match in glob.iglob(path, recursive=True) if not os.path.isdir(match))
    if not found:
        raise SourceError("E301", "no file matches", at=path, try_=_near(path))
    return found


def is_glob(path: str) -> bool:
    """Whether `path` has wildcards; an existing file whose name looks like a glob is meant as that file."""
    return not _MAGIC.isdisjoint(path) and not os.path.lexists(path)


def fixed_folder(pattern: str) -> str:
    """The folder in front of the first part of `pattern` that has wildcards."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if not _MAGIC.isdisjoint(part))
    return str(Path(*parts[:fixed]))


def check_readable(path: str) -> None:
    """Raise `SourceError` unless `path` is a regular file that can be opened."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb"):
                return
    except (OSError, ValueError) as error:
        raise open_error(path, error) from error
    if stat.S_ISDIR(mode):
        raise SourceError(
            "E303", "this is a folder, not a file", at=path, try_=f"{path}/* for its files, or Directory()"
        )
    raise SourceError("E303", "this is not a regular file", at=path, try_="Stdin() for data from a pipe")


def partition_id(path: str, name: str) -> str:
    """The id of the bytes in `path`, as ASCII text."""
    return f"{quote(name, safe='/ -._~+,=()', errors='surrogateescape')}@{_fingerprint(path)}"


def open_error(path: str, error: OSError | ValueError) -> SourceError:
    """`error`, raised while finding or opening `path`, in the user's words."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError("E301", "there is no such file", at=path, try_=_near(path))
    if isinstance(error, PermissionError):
        return SourceError("E304", "no permission to read", at=path, try_=f"chmod u+r {path}, or run as its owner")
    return SourceError("E306", "the file cannot be read", at=path, got=str(error))


def changed_error(path: str, *, got: object = None, expected: str | None = None) -> SourceError:
    """`path` no longer holds the bytes that positions were given for."""
    return SourceError(
        "E302",
        "the file changed since reading it began",
        at=path,
        got=got,
        expected=expected,
        try_="put the old file back, or start a new run",
    )


def _name(given: str, path: str) -> str:
    return os.path.relpath(path, fixed_folder(given)) if is_glob(given) else os.path.basename(path)


def _fingerprint(path: str) -> str:
    try:
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(b"%d:" % size_bytes + file.read(SAMPLE_BYTES))
            if size_bytes > SAMPLE_BYTES:
                file.seek(max(SAMPLE_BYTES, size_bytes - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise open_error(path, error) from error
    return digest.hexdigest()[:16]


def _near(path: str) -> str:
    """What the user may have meant by `path`."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return f"the folder {folder!r} is not there" if not os.path.isdir(folder or ".") else "another path"
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return os.path.join(folder, close[0])
    return f"one of the {len(names)} names in {os.path.abspath(folder or '.')!r}"
