"""The SQLite sink: one row per rid, whatever happens."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from private_mount import SOURCE

from sage.connectors import SQLite
from sage.errors import PipelineError, SinkError
from sage.flow.sink import SinkContext, Writer


def open_writer(sink: SQLite) -> Writer:
    sink.check()
    return sink.open(SinkContext("test", "write"))


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql).fetchall()


def test_values_of_every_kind(tmp_path: Path) -> None:
    writer = open_writer(SQLite(tmp_path / "out.db", 'an"swers', key="the rid"))
    record = {"a b": None, "yes": True, "n": 1 << 62, "x": 0.5, "t": "ä\0b", "raw": b"\xff", "tags": ["a", {"b": 1}]}
    assert not writer.write([{**record, "day": dt.date(2024, 2, 3)}], ["in/0"])
    writer.commit()
    assert query(tmp_path / "out.db", 'SELECT * FROM "an""swers"') == [
        ("in/0", None, 1, 1 << 62, 0.5, "ä\0b", b"\xff", '["a",{"b":1}]', "2024-02-03")
    ]


def test_a_run_that_was_killed_and_is_run_again_leaves_each_row_once(tmp_path: Path) -> None:
    script = f"""
import os, signal
from sage.connectors import SQLite
from sage.flow.sink import SinkContext
writer = SQLite({str(tmp_path / "out.db")!r}, "answers").open(SinkContext("test", "write"))
for start in range(0, 60, 20):
    writer.write([{{"n": n}} for n in range(start, start + 20)], [f"in/{{n}}" for n in range(start, start + 20)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, check=False)
    assert killed.returncode == -9
    assert query(tmp_path / "out.db", "SELECT count(*) FROM answers") == [(60,)]
    writer = open_writer(SQLite(tmp_path / "out.db", "answers"))
    for start in range(0, 100, 30):
        numbers = range(start, min(start + 30, 100))
        assert not writer.write([{"n": n} for n in numbers], [f"in/{n}" for n in numbers])
    writer.commit()
    assert query(tmp_path / "out.db", "SELECT count(*), sum(n) FROM answers") == [(100, sum(range(100)))]


def test_a_row_that_breaks_a_constraint_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    query(path, "CREATE TABLE answers (rid TEXT PRIMARY KEY, n INTEGER CHECK (n < 100), mail TEXT UNIQUE)")
    writer = open_writer(SQLite(path, "answers"))
    records = [{"n": 1, "mail": "a"}, {"n": 1000, "mail": "b"}, {"n": 2, "mail": "a"}, {"n": 3, "mail": "c"}]
    rejected = writer.write(records, ["r0", "r1", "r2", "r3"])
    assert [entry.index for entry in rejected] == [1, 2]
    assert str(rejected[0].error).startswith(
        "E409 the database refuses the row (CHECK constraint failed: n < 100) at r1"
    )
    writer.commit()
    assert query(path, "SELECT rid FROM answers") == [("r0",), ("r3",)]


def test_tables_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    query(path, "CREATE TABLE answers (rid TEXT, n)")
    with pytest.raises(SinkError, match=r"E554 the column 'rid' is not unique at .*out\.db, table 'answers'"):
        SQLite(path, "answers").check()
    query(path, "CREATE UNIQUE INDEX answers_rid ON answers(rid)")
    SQLite(path, "answers", columns=["N"]).check()
    with pytest.raises(SinkError, match=r"E554 the table lacks columns .*expected other"):
        SQLite(path, "answers", columns=["n", "other"]).check()
    writer = open_writer(SQLite(path, "answers"))
    with pytest.raises(SinkError, match="E554 the table lacks columns"):
        writer.write([{"other": 1}], ["a"])
    with pytest.raises(SinkError, match="E554 two columns have the same name"):
        writer.write([{"rid": 1}], ["a"])
    assert writer.abort() is None
    assert query(path, "SELECT * FROM answers") == []


def test_names_that_are_refused(tmp_path: Path) -> None:
    for table in ("", "a\0b", "a\nb", "sqlite_master"):
        with pytest.raises(PipelineError, match="E217"):
            SQLite(tmp_path / "out.db", table)
    writer = open_writer(SQLite(tmp_path / "out.db", "t; DROP TABLE t", columns=['x"); DROP TABLE t; --']))
    assert not writer.write([{'x"); DROP TABLE t; --': 1}], ["a"])
    writer.commit()
    assert query(tmp_path / "out.db", 'SELECT count(*) FROM "t; DROP TABLE t"') == [(1,)]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, though it is long enough to be looked at" * 20)
    with pytest.raises(SinkError, match=r"E554 this is not a SQLite database at .*text\.db"):
        SQLite(tmp_path / "text.db", "t").check()
    with pytest.raises(SinkError, match="E551"):
        SQLite(tmp_path, "t").check()
    with pytest.raises(SinkError, match="E550 the folder of the output is not there"):
        SQLite(tmp_path / "no" / "out.db", "t").check()
    SQLite(tmp_path / "new.db", "t").check()
    assert not (tmp_path / "new.db").exists()


def test_two_writers_share_a_database(tmp_path: Path) -> None:
    first, second = (open_writer(SQLite(tmp_path / "out.db", "t")) for _ in range(2))
    for n in range(10):
        assert not first.write([{"by": "first"}], [str(n)])
        assert not second.write([{"by": "second"}], [str(n + 5)])
    first.commit()
    second.commit()
    assert query(tmp_path / "out.db", "SELECT by, count(*) FROM t GROUP BY by") == [("first", 5), ("second", 10)]


def test_a_database_that_stays_locked(tmp_path: Path) -> None:
    writer = open_writer(SQLite(tmp_path / "out.db", "t", columns=["n"], busy_timeout_s=0.05))
    with closing(sqlite3.connect(tmp_path / "out.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkError, match=r"E555 the database is locked at .*out\.db, table 't'.*more than 0\.05 s"):
            writer.write([{"n": 1}], ["a"])
        other.execute("ROLLBACK")
    assert not writer.write([{"n": 1}], ["a"])
    assert str(writer.abort()).endswith("(a new run adds what is missing)")
    assert query(tmp_path / "out.db", "SELECT * FROM t") == [("a", 1)]
