"""The jobs on disk: one SQLite file, which survives the manager at any moment."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage.errors import SageError, StorageError
from sage.jobs.folder import no_room, touch
from sage.jobs.job import Job, job_of, to_json

VERSION = 1
APPLICATION = 0x53414745
_SCHEMA = "CREATE TABLE jobs (id TEXT PRIMARY KEY, job TEXT NOT NULL, crc INTEGER NOT NULL) STRICT"
_LOCK_TIMEOUT_S = 5.0


class Store:
    """All jobs. One manager has it open; whoever calls sees to it that calls do not overlap.

    What `put` and `delete` did is on the disk when they return. Every row carries its checksum, since SQLite reads a
    flipped bit as it stands.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises `StorageError`: E605 if a newer SAGE wrote it, E604 if it is damaged or not
        ours, E601 if there is no room."""
        self._path = path
        touch(path)
        self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            with self._translated():
                self._set_up()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def put(self, job: Job) -> None:
        """Store `job`, in place of what was stored under its id."""
        text = json.dumps(to_json(job), allow_nan=False, separators=(",", ":"))
        with self._translated():
            self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", (job.id, text, _checksum(job.id, text)))

    def delete(self, job: str) -> None:
        """Forget the job with this id."""
        with self._translated():
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def jobs(self) -> Iterator[Job]:
        """All jobs. Raises `StorageError` E604 for a row that is not as it was written."""
        with self._translated():
            rows = self._db.execute("SELECT id, job, crc FROM jobs ORDER BY rowid").fetchall()
        for job, text, crc in rows:
            if _checksum(job, text) != crc:
                raise self._damaged(f"job {job}: the checksum does not fit")
            yield job_of(json.loads(text))

    def _set_up(self) -> None:
        self._db.execute("PRAGMA trusted_schema = OFF")
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # and with it, no file that is mapped into memory
        application, version, tables = self._shape()
        if (application, version, tables) == (0, 0, []):
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            self._db.execute("COMMIT")
        elif application != APPLICATION:
            raise self._damaged("another program's database")
        elif version > VERSION:
            raise StorageError(
                "E605", "a newer SAGE wrote this", at=str(self._path), got=f"version {version}",
                expected=f"at most {VERSION}", try_="update SAGE, or another SAGE_DATA_DIR",
            )  # fmt: skip
        elif tables != [_SCHEMA]:
            raise self._damaged(f"tables {tables}")
        self._db.execute("PRAGMA synchronous = FULL")
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise self._damaged(found)

    def _shape(self) -> tuple[int, int, list[str]]:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        made = self._db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return application, version, [sql for (sql,) in made]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.rollback()
            raise self._refused(error) from error

    def _refused(self, error: sqlite3.Error) -> SageError:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # errors of the module itself have none
            return no_room(self._path)
        return self._damaged(str(error))

    def _damaged(self, how: str) -> StorageError:
        try_ = f"put {self._path.name} and its -wal aside; jobs that run go on, and their folders stay"
        return StorageError("E604", "the stored jobs cannot be read", at=str(self._path), got=how, try_=try_)


def _checksum(job: str, text: str) -> int:
    return zlib.crc32(f"{job} {text}".encode())
