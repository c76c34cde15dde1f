"""The place of an index: one build at a time fills it, and what is there stays until the new index is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage.errors import StorageError


def check_target(target: Path) -> None:
    """Raise `StorageError` E666 if something is at `target` that is no index."""
    if target.is_symlink() or (target.exists() and not (target / "manifest.json").is_file()):
        raise StorageError(
            "E666", "there is something else where the index shall be", at=str(target), try_="another path"
        )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder, which takes the place of `target` if all goes well. Raises `StorageError` E666.

    Waits for another build of the same index. Who has the old index open goes on reading it.
    """
    place = target.absolute()
    folder = place.with_name(f".{place.name}.sage-build")
    work, aside = folder / "new", folder / "old"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            try:
                _settle(place, aside)
                check_target(target)
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                yield work
                _put(work, place, aside)
            finally:
                _settle(place, aside)
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            "E666", "the index cannot be written", at=str(target), got=error.strerror or str(error)
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The kernel's lock on a file in `folder`, which vanishes with the process; who has it may remove the folder."""
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        try:
            file = path.open("ab")
        except FileNotFoundError:
            continue  # its owner removed the folder after our mkdir
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file.fileno()):
                yield
                return


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _put(work: Path, place: Path, aside: Path) -> None:
    for path in (*work.rglob("*"), work):
        _sync(path)
    if place.exists():
        place.rename(aside)
    work.rename(place)
    _sync(place.parent)


def _settle(place: Path, aside: Path) -> None:
    """Nothing is left aside: without a new index, as after a kill between the two renames, the old one is put back."""
    if aside.exists() and not place.exists():
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
