"""Clusters that have a name, and outlive the terminal: who holds them, and what they are.

For each there is a lock, held as long as the process lives that holds the cluster, and a note of what it is. A reboot
or a kill leaves the note, and gives up the lock: that is how a stale one is told.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sage import settings
from sage.cluster.cluster import Cluster, Node
from sage.cluster.keeping import FOLDER_PREFIX
from sage.cluster.sessions import END_S, end_sessions
from sage.errors import ClusterError, StorageError, UsageError
from sage.processes import end_all, process_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


@dataclass(frozen=True, slots=True)
class Named:
    """A cluster with a name. `holder` is the process that ends it, `namespaces` lead into the machine of its head."""

    name: str
    holder: int
    cluster: Cluster
    network: str
    namespaces: tuple[str, ...] = ()
    is_held: bool = True


def check_name(name: str) -> str:
    """`name`, if it can be one. Raises `UsageError` E104."""
    if not _NAME.fullmatch(name):
        raise UsageError("E104", "not a name for a cluster", got=name, expected="at most 41 letters, digits, . _ -")
    return name


def all_named() -> list[Named]:
    """Every one of this user, also those of which only the note is left."""
    return [_read(path) for path in sorted(_folder().glob("*.json"))]


def find(name: str | None) -> Named:
    """The one of this name, or the only one that is up. Raises `ClusterError` E836."""
    found = [one for one in all_named() if one.is_held]
    names = ", ".join(one.name for one in found) or "none is up"
    if name is not None:
        found = [one for one in found if one.name == name]
    if len(found) != 1:
        raise ClusterError(
            "E836", "no such cluster is up" if name or not found else "it is not clear which cluster is meant",
            at=name, got=names, try_="sage cluster up" if not found else "--name",
        )  # fmt: skip
    return found[0]


@contextmanager
def hold(name: str) -> Iterator[Path]:
    """Hold the name while inside: yields where the note of the cluster goes. Raises `ClusterError` E835 if it is."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError("E680", "the notes about clusters cannot be kept", at=str(folder), got=error) from error
    try:
        if not _try_lock(lock):
            raise ClusterError(
                "E835",
                "a cluster of this name is up",
                at=name,
                try_=f"sage cluster down --name {name}, or another name",
            )
        note = _note(name)
        try:
            yield note
        finally:
            note.unlink(missing_ok=True)
    finally:
        os.close(lock)


def write(note: Path, named: Named) -> None:
    """Put the note in place, whole."""
    plain = asdict(named)
    for key in ("token_path", "folder"):
        plain["cluster"][key] = str(plain["cluster"][key])
    beside = note.with_suffix(".new")
    beside.write_text(json.dumps(plain))
    beside.chmod(0o600)
    beside.replace(note)


def end(named: Named) -> None:
    """End its processes, see that they are gone, and remove its note. Raises `ClusterError` E838."""
    folder = named.cluster.folder
    assert folder is not None
    holder = process_of(named.holder) if named.is_held else None
    if holder is not None and _is_held(_note(named.name)):  # from here on the number means this process
        holder.send(signal.SIGTERM)
        if not holder.wait(END_S * 2):
            end_all([holder], END_S)
        end_sessions([node.pid for node in named.cluster.nodes])
    if folder.name.startswith(FOLDER_PREFIX):  # of one whose keeper was killed, too
        shutil.rmtree(folder, ignore_errors=True)
    _note(named.name).unlink(missing_ok=True)


def _note(name: str) -> Path:
    return _folder() / f"{name}.json"


def _folder() -> Path:
    return settings.load().data_dir / "clusters"


def _read(path: Path) -> Named:
    try:
        plain = json.loads(path.read_text())
        found = plain["cluster"]
        nodes = tuple(Node(**node) for node in found["nodes"])
        cluster = Cluster(found["address"], nodes, Path(found["token_path"]), Path(found["folder"]))
        namespaces = tuple(plain["namespaces"])
        return Named(plain["name"], plain["holder"], cluster, plain["network"], namespaces, _is_held(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            "E680", "the note about a cluster cannot be read", at=str(path), got=error, try_=f"rm {path}"
        ) from error


def _is_held(note: Path) -> bool:
    try:
        lock = os.open(note.with_suffix(".lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
