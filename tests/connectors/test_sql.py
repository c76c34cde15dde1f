"""The SQL sink: one effect per rid, in SQLite and in PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patience import DEADLINE_S
from sage.connectors import SQL
from sage.errors import PipelineError, SinkError
from sage.flow.sink import SinkContext, Writer
from sage.testing import check_sink

alchemy = pytest.importorskip("sqlalchemy")


class Postgres:
    """A server of its own, in a folder, reached by a socket in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._folder.mkdir()
        self._run(
            "initdb",
            "--no-sync",
            "--encoding=UTF8",
            "--auth=trust",
            "--username=sage",
            "--pgdata",
            str(self._folder / "data"),
        )
        self.url = f"postgresql+psycopg://sage@/postgres?host={self._folder}"
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off"
        self._run("pg_ctl", "--pgdata", str(self._folder / "data"), "-w", "-t", str(int(DEADLINE_S)), "-o", options,
                  "-l", str(self._folder / "log"), "start")  # fmt: skip

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "--pgdata", str(self._folder / "data"), "-w", "-m", how, "stop")

    def _run(self, name: str, *arguments: str) -> None:
        """A program of PostgreSQL, which refuses to work as root."""
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        if user:
            owner = pwd.getpwnam("nobody")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            [name, *arguments], cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=DEADLINE_S, check=False, **user,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.returncode}"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("there is no PostgreSQL here")
    folder = Path(tempfile.mkdtemp(prefix="sage-pg-"))  # the path of a socket may not be long
    folder.chmod(0o755)
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/out.db"
    server: Postgres = request.getfixturevalue("postgres")
    execute(server.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return server.url


def execute(url: str, *statements: str) -> list[Any]:
    """The rows that the last statement gives."""
    engine = alchemy.create_engine(url, poolclass=alchemy.pool.NullPool)
    with engine.begin() as connection:
        found = [connection.exec_driver_sql(statement) for statement in statements][-1]
        return [tuple(row) for row in found] if found.returns_rows else []


def open_writer(sink: SQL) -> Writer:
    sink.check()
    return sink.open(SinkContext("test", "write"))


def test_it_keeps_the_contract_of_sinks(url: str) -> None:
    def rows() -> list[Any]:
        try:
            return [{"n": n, "text": text} for n, text in execute(url, "SELECT n, text FROM answers ORDER BY n")]
        except alchemy.exc.DBAPIError:
            return []

    refused = [{"n": float("nan")}, {"n": 1 << 63}, {"n": "\ud800"}, {"n": 1, "other": 2}, {}, "no row"]
    check_sink(SQL(url, "answers"), rows, refused=refused)


def test_values_of_every_kind(url: str) -> None:
    record = {"a b": 1, "yes": True, "x": 0.5, "t": "ä", "raw": b"\xff", "tags": ["a", {"b": 1}], "none": None}
    writer = open_writer(SQL(url, 'an"swers', key="the rid"))
    assert not writer.write([record, {"a b": 2, "tags": None}], ["in/0", "in/1"])
    writer.commit()
    columns = 'SELECT "a b", yes, x, t, "none" FROM "an""swers" ORDER BY "the rid"'
    assert execute(url, columns) == [(1, True, 0.5, "ä", None), (2, None, None, None, None)]


def test_a_row_that_the_database_refuses_is_refused_alone(url: str) -> None:
    execute(url, "CREATE TABLE t (rid TEXT PRIMARY KEY, n INTEGER CHECK (n < 5))")
    writer = open_writer(SQL(url, "t"))
    (refused,) = writer.write([{"n": 1}, {"n": 7}, {"n": 3}], ["a", "b", "c"])
    assert refused.index == 1
    assert refused.error.code == "E409"
    writer.commit()
    assert execute(url, "SELECT n FROM t ORDER BY n") == [(1,), (3,)]


def test_a_row_is_replaced_once_for_each_record(url: str) -> None:
    sink = SQL(url, "latest", key=None, replace=["user"])
    writer = open_writer(sink)
    writer.write([{"user": "ann", "n": 1}, {"user": "ben", "n": 2}, {"user": "ann", "n": 3}], ["r/0", "r/1", "r/2"])
    writer.write([{"user": "ann", "n": 1}], ["r/0"])  # again, and late: it had its effect
    writer.commit()
    writer = open_writer(sink)
    writer.write([{"user": "ben", "n": 2}, {"user": "cem", "n": 4}], ["r/1", "r/3"])
    writer.commit()
    assert execute(url, 'SELECT "user", n FROM latest ORDER BY n') == [("ben", 2), ("ann", 3), ("cem", 4)]


def test_rows_of_a_table_without_room_for_the_rid_are_added_once(url: str) -> None:
    execute(url, "CREATE TABLE plain (n INTEGER)")
    for _ in range(2):
        writer = open_writer(SQL(url, "plain", key=None))
        writer.write([{"n": 1}, {"n": 1}], ["r/0", "r/1"])
        writer.commit()
    assert execute(url, "SELECT count(*) FROM plain") == [(2,)]


@pytest.mark.parametrize(
    ("made", "options", "refused"),
    [
        ("CREATE TABLE t (n INTEGER)", {}, "E554 the table lacks columns"),
        ("CREATE TABLE t (rid TEXT, n INTEGER)", {}, "E554 these columns are not unique"),
        ("CREATE TABLE t (n INTEGER, m INTEGER)", {"key": None, "replace": ["n"]}, "E554 these columns are not unique"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(url: str, made: str, options: dict[str, Any], refused: str) -> None:
    execute(url, made)
    with pytest.raises(SinkError, match=refused):
        SQL(url, "t", **options).check()


def test_addresses_that_cannot_work() -> None:
    with pytest.raises(SinkError, match="E551 this is not the address of a database"):
        SQL("nonsense", "t").check()
    with pytest.raises(SinkError, match=r"E551 SAGE knows .* SQLite and PostgreSQL only"):
        SQL("mysql://host/name", "t").check()
    with pytest.raises(SinkError, match=r"E559 the database cannot be reached at [^:]*://me:[*]*@.*") as refused:
        SQL("postgresql+psycopg://me:secret@localhost:1/name", "t").check()
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(SQL("postgresql+psycopg://me:secret@localhost:1/name", "t"))
    with pytest.raises(PipelineError, match="E217"):
        SQL("sqlite://", "t", replace=["n"])


def test_a_server_that_was_killed_is_reached_again(postgres: Postgres) -> None:
    writer = open_writer(SQL(postgres.url, "killed"))
    writer.write([{"n": 1}], ["r/1"])
    postgres.stop("immediate")
    try:
        with pytest.raises(SinkError, match="E559"):
            writer.write([{"n": 2}], ["r/2"])
    finally:
        postgres.start()
    for _ in range(2):  # the first may have been applied, for all that the writer can know
        assert not writer.write([{"n": 2}], ["r/2"])
    writer.commit()
    assert execute(postgres.url, "SELECT n FROM killed ORDER BY n") == [(1,), (2,)]
