"""SQLAlchemy's errors in SAGE's words, and SQLAlchemy itself, which is optional."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage.errors import MissingDependency, SinkError

FULL, LOCKED, READ_ONLY = 13, (5, 6), (8, 14, 23)
"""Of SQLite."""
_BUSY = ("55P03", "40001", "40P01", "53300")
"""PostgreSQL: a lock that is held, transactions that met, too many connections."""
_AWAY = ("08", "57P")
_DENIED = ("42501", "28000", "28P01", "25006")


def sqlalchemy() -> Any:
    """The module."""
    try:
        import sqlalchemy
        import sqlalchemy.exc
        import sqlalchemy.pool
    except ImportError as error:
        raise MissingDependency("sqlalchemy", "sql", "writing to databases") from error
    return sqlalchemy


def row_errors() -> tuple[type[Exception], ...]:
    """What a row can be at fault for."""
    exc = sqlalchemy().exc
    return exc.IntegrityError, exc.DataError, exc.ProgrammingError


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn an error of SQLAlchemy, or of the driver below it, into a `SinkError` that names `place`."""
    try:
        yield
    except sqlalchemy().exc.SQLAlchemyError as error:
        raise _sink_error(place, error) from error
    except ImportError as error:  # the driver
        raise MissingDependency(error.name or "psycopg", "sql", "writing to this database") from error


def _sink_error(place: str, error: Exception) -> SinkError:
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or ""
    primary = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    got = str(cause).strip().partition("\n")[0]
    if primary == FULL or state == "53100":
        return SinkError("E552", "no space left for the output", at=place, got=got, try_="make room")
    if primary in LOCKED or state in _BUSY:
        return SinkError("E555", "the database is locked", at=place, got=got, try_="wait for who holds it, or end it")
    if primary in READ_ONLY or state in _DENIED:
        return SinkError("E551", "the database cannot be written to", at=place, got=got)
    if state.startswith(_AWAY) or (not state and not primary and _is_operational(error)):
        return SinkError("E559", "the database cannot be reached", at=place, got=got, try_="see that it runs")
    return SinkError("E556", "the database cannot be written", at=place, got=got)


def _is_operational(error: Exception) -> bool:
    return isinstance(error, sqlalchemy().exc.OperationalError | sqlalchemy().exc.InterfaceError)
