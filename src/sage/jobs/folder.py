"""The files of the job manager and of its jobs: whose they are, where they are, how they are written.

::

    DATA_DIR/jobs/              this user's alone (0700), as is all in it (0600)
        manager.lock            held by the manager while it runs
        manager.json            who it is
        manager.log
        token                   for clients that come through a port
        api.sock                where it answers
        jobs.sqlite             the jobs
        gateways/               before the endpoints that jobs share, see `sage.jobs.endpoints`
        run/ID/                 one job
            job.json            what was submitted
            lock                held by every process of the job that SAGE starts
            share.json          the records that it may have in flight, while it runs
            log                 what it wrote, over all its runs
            1/                  its first run; that it exists says that this run was begun
                supervisor.json who sees to it
                figures.json    the figures as they stand
                results.jsonl   how its pipelines ended
                success         that they all ended well
                end             how its process ended
                *.dead.jsonl    dead letters
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage.errors import StorageError
from sage.jobs.job import ID, JobSpec
from sage.private import opener
from sage.processes import Process

TEMPORARY = ".tmp"
END_BYTES = 256
MAX_JSON_BYTES = 16 << 20


class StateFolder:
    """The folder of one job manager."""

    def __init__(self, data_dir: Path) -> None:
        self.path = Path(os.path.abspath(data_dir)) / "jobs"
        self.lock = self.path / "manager.lock"
        self.manager = self.path / "manager.json"
        self.log = self.path / "manager.log"
        self.token = self.path / "token"
        self.socket = self.path / "api.sock"
        self.database = self.path / "jobs.sqlite"
        self.jobs = self.path / "run"

    def make(self) -> None:
        """Make what is missing. Raises `StorageError` E610 where it cannot be made or is not this user's own."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.jobs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from error
        self.check()

    def check(self) -> None:
        """Raise `StorageError` E610 if the folder is another user's, or open to others."""
        for path in (self.path, self.jobs):
            try:
                about = path.lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unusable(path, error.strerror or str(error)) from error
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
                raise _unusable(path, "it is not a folder of this user")
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise _unusable(path, f"others may use it (mode {stat.S_IMODE(about.st_mode):o})", f"chmod 700 {path}")

    def job(self, job: str) -> JobFolder:
        """That of the job with this id."""
        return JobFolder(self.jobs / job)

    def ids(self) -> list[str]:
        """The ids of which there is a folder."""
        try:
            return sorted(name for name in os.listdir(self.jobs) if ID.fullmatch(name))
        except FileNotFoundError:
            return []


class JobFolder:
    """The folder of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "job.json"
        self.lock = path / "lock"
        self.log = path / "log"
        self.share = path / "share.json"

    @property
    def state(self) -> StateFolder:
        """That of the manager, which it is in."""
        return StateFolder(self.path.parent.parent.parent)

    def make(self, spec: JobSpec) -> None:
        """Make it, with what was submitted in it. Raises `StorageError` E601 if there is no room."""
        with storing(self.path):
            self.path.mkdir(mode=0o700)
            write_json(self.spec, asdict(spec))

    def run(self, number: int) -> RunFolder:
        """That of one run of the job."""
        return RunFolder(self.path / str(number))

    def is_locked(self) -> bool:
        """Whether a process of the job is there still."""
        try:
            with locked(self.lock):
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove it, and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class End:
    """How the process of a run ended."""

    code: int
    """Its exit code, or minus the signal."""
    stopped: bool
    """It had been told to stop."""
    memory_bytes: int = 0
    """What it used when it was ended because that was too much; else 0."""


class RunFolder:
    """The folder of one run of a job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.supervisor = path / "supervisor.json"
        self.figures = path / "figures.json"
        self.results = path / "results.jsonl"
        self.success = path / "success"
        self.end = path / "end"

    def supervisor_of_it(self) -> Process | None:
        """Who sees to this run, or did; None if nobody has said so."""
        found = read_json(self.supervisor)
        return None if found is None else Process(**found)

    def reserve(self) -> None:
        """Take the room for the end now: a disk that is full later must not hide how the run ended."""
        for path in (self.success, self.end):
            with open(path, "wb", opener=opener) as file:
                os.posix_fallocate(file.fileno(), 0, END_BYTES)

    def write_success(self, state: str) -> None:
        """The file ended well, and all its pipelines have proved their accounts."""
        _fill(self.success, {"state": state})

    def read_success(self) -> str | None:
        """What `write_success` wrote, if it did."""
        found = _filled(self.success)
        return None if found is None else found["state"]

    def write_end(self, end: End) -> None:
        """How the process ended."""
        _fill(self.end, asdict(end))

    def read_end(self) -> End | None:
        """What `write_end` wrote, if it did."""
        found = _filled(self.end)
        return None if found is None else End(**found)

    def add_result(self, line: str) -> None:
        """Note how a pipeline of the file ended, as one line of JSON."""
        with open(self.results, "a", encoding="utf-8", opener=opener) as file:
            file.write(line + "\n")

    def read_results(self) -> list[dict[str, Any]]:
        """How the pipelines of the file ended, one after the other; a line that was not finished is left out."""
        try:
            with open(self.results, "rb") as file:
                lines = file.read(MAX_JSON_BYTES).splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
        return found


def _fill(path: Path, value: Mapping[str, Any]) -> None:
    """Write into a file that has its room already; it is on the disk then."""
    text = json.dumps(value)
    with open(path, "r+b") as file:
        file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".ljust(END_BYTES).encode())
        file.flush()
        os.fsync(file.fileno())


def _filled(path: Path) -> dict[str, Any] | None:
    try:
        crc, _, text = path.read_bytes().decode("ascii", "replace").rstrip().partition(" ")
    except OSError:
        return None
    found: dict[str, Any] | None = json.loads(text) if crc == f"{zlib.crc32(text.encode()):08x}" else None
    return found


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock in the file at `path`, which must exist; inside, the descriptor. Raises BlockingIOError at once
    where somebody else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def touch(path: Path) -> None:
    """Make an empty file, for this user alone, if there is none."""
    os.close(opener(str(path), os.O_CREAT | os.O_WRONLY))


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """As `write_text`."""
    write_text(path, json.dumps(value, allow_nan=False), durable=durable)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Put a file in place whole, for this user alone. Raises OSError, and then what was there before is there."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "w", encoding="utf-8", opener=opener) as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no whole one."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(MAX_JSON_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, an OSError becomes `StorageError`: E601 where there is no room, E610 otherwise."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(path) from error
        raise _unusable(path, error.strerror or str(error)) from error


def no_room(path: Path) -> StorageError:
    """For a disk that is full."""
    return StorageError("E601", "no space left for the state of jobs", at=str(path), try_=f"df {path.parent}")


def _unusable(path: Path, why: str, try_: str | None = None) -> StorageError:
    return StorageError("E610", "the folder of the job manager cannot be used", at=str(path), got=why, try_=try_)
