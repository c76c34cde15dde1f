"""Tokens used by key, job, step and model, in SQLite: one row for each hour in which there were any."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sage.clock import SYSTEM_CLOCK
from sage.errors import StorageError
from sage.private import check_private, opener

BY = ("key", "job", "step", "model")
_SUMS = ("requests", "failed", "prompt_tokens", "completion_tokens", "estimated_tokens", "reused_tokens")
_HOUR_S = 3600
_APPLICATION = 0x53414755
_TABLE = """
CREATE TABLE IF NOT EXISTS used (
    hour INTEGER NOT NULL, key TEXT NOT NULL, job TEXT NOT NULL, step TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, estimated_tokens INTEGER NOT NULL,
    reused_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, key, job, step, model)
) WITHOUT ROWID
"""
_WIDEN = "ALTER TABLE used ADD COLUMN reused_tokens INTEGER NOT NULL DEFAULT 0"
"""For a file from before there were any."""
_ADD = f"""
INSERT INTO used (hour, {", ".join((*BY, *_SUMS))}) VALUES ({", ".join("?" * (1 + len(BY) + len(_SUMS)))})
ON CONFLICT DO UPDATE SET
{", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)}
"""


class Used(NamedTuple):
    """What one request used, or many together. Tokens are the endpoint's own count; where it never said (the client
    went away, the stream broke), `estimated_tokens` is the prompt by its length and what came, and these two are 0."""

    key: str
    job: str
    step: str
    model: str
    requests: int = 1
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    reused_tokens: int = 0
    """Of answers that were given again: not paid for, and in none of the others."""

    @property
    def tokens(self) -> int:
        """That were paid for."""
        return self.prompt_tokens + self.completion_tokens + self.estimated_tokens


class Ledger:
    """The file, from `open` to `close`; for one thread. Several processes may have it open at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(path, "ab", opener=opener):
                check_private(path)
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def add(self, used: Iterable[Used]) -> None:
        """Add all of it, or none. Raises `StorageError` E670."""
        hour = int(SYSTEM_CLOCK.wall() // _HOUR_S)
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany(_ADD, [(hour, *one) for one in used])
                self._base.execute("COMMIT")
            except sqlite3.Error:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def totals(self, by: Sequence[str] = BY, *, hours: int | None = None) -> list[Used]:
        """Sums by those of `BY` that are in `by` (the others are empty), the largest first; of the last `hours` hours.
        Raises `StorageError` E670."""
        since = 0 if hours is None else int(SYSTEM_CLOCK.wall() // _HOUR_S) - hours + 1
        return self._totals(by, since)

    def spent(self, since_s: float) -> dict[str, int]:
        """Tokens by key since an hour that began at `since_s`."""
        return {used.key: used.tokens for used in self._totals(("key",), int(since_s // _HOUR_S))}

    def _totals(self, by: Sequence[str], since: int) -> list[Used]:
        names = ", ".join(name if name in by else "''" for name in BY)
        sums = ", ".join(f"sum({name})" for name in _SUMS)
        query = f"SELECT {names}, {sums} FROM used WHERE hour >= ? GROUP BY 1, 2, 3, 4 "
        try:
            rows = self._base.execute(
                query + "ORDER BY sum(prompt_tokens + completion_tokens) DESC, 1, 2, 3, 4", [since]
            )
            return [Used(*row) for row in rows]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """May be called twice."""
        self._base.close()

    def _prepare(self) -> None:
        base = self._base
        base.execute("PRAGMA trusted_schema = OFF")
        (application,) = base.execute("PRAGMA application_id").fetchone()
        (tables,) = base.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != _APPLICATION:
            base.close()
            raise sqlite3.DatabaseError("it was not written by SAGE")
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.execute(f"PRAGMA application_id = {_APPLICATION}")
        base.execute("BEGIN IMMEDIATE")
        base.execute(_TABLE)
        if "reused_tokens" not in {name for _, name, *_ in base.execute("PRAGMA table_info(used)")}:
            base.execute(_WIDEN)
        base.execute("COMMIT")

    def _unusable(self, error: Exception) -> StorageError:
        return StorageError(
            "E670", "the file of usage cannot be used", at=str(self._path), got=str(error), try_="another usage_file"
        )
