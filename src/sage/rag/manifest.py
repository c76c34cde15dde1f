"""The manifest of an index: what its files are, and proof that they are as they were written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from sage.errors import StorageError

FORMAT = 1
_NAME = "manifest.json"
_REBUILD = "build the index again (sage rag index)"


class FileSeal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json`` of an index directory."""

    format: int
    model: str
    dimensions: int
    documents: int
    passages: int
    vectors: int
    files: dict[str, FileSeal]


class _Version(msgspec.Struct):
    format: int


def seal_files(folder: Path) -> dict[str, FileSeal]:
    """The seals of all files below `folder`, by their path in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _seal(file) for file in files}


def write_manifest(manifest: Manifest, folder: Path) -> None:
    (folder / _NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the index in `folder`, after every file has been checked against it (reads them all once).

    Raises `StorageError`: E662 there is no index, E663 it is damaged, E664 another version wrote it.
    """
    try:
        raw = (folder / _NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError("E662", "there is no index", at=str(folder), try_="sage rag index") from error
    except OSError as error:
        raise StorageError("E663", "the index cannot be read", at=str(folder), got=error.strerror) from error
    try:
        found = msgspec.json.decode(raw, type=_Version).format
        if found != FORMAT:
            raise StorageError(
                "E664", "the index has another format", at=str(folder), got=found, expected=str(FORMAT), try_=_REBUILD
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise StorageError(
            "E663", "the index is damaged", at=str(folder / _NAME), got=str(error), try_=_REBUILD
        ) from error
    for name, seal in manifest.files.items():
        _check(folder, name, seal)
    return manifest


def _check(folder: Path, name: str, seal: FileSeal) -> None:
    file = folder / name
    try:
        sound = folder.resolve() in file.resolve().parents and _seal(file) == seal
    except OSError as error:
        raise StorageError("E663", "the index is damaged", at=str(file), got=error.strerror, try_=_REBUILD) from error
    if not sound:
        raise StorageError("E663", "the index is damaged", at=str(file), expected="the sealed content", try_=_REBUILD)


def _seal(file: Path) -> FileSeal:
    with file.open("rb") as stream:
        return FileSeal(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
