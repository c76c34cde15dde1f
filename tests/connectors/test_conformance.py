"""Every connector keeps the contracts of sources and sinks."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from sage.connectors import Csv, Directory, First, Items, JsonLines, KeyValue, Parquet, SQLite, Text
from sage.errors import PipelineError, SinkError
from sage.flow.sink import SinkContext
from sage.flow.source import Source
from sage.testing import check_sink, check_source

BROKEN_LINES = (
    b'{"n":1}\n\n{"n":2}\r\n{"n":\nnull\n"\\ud800"\n\xff\nNaN\n  \n[1,2]\n"three"\n' + b'{"n":4}\n' * 30 + b"5"
)


def read_all(source: Source) -> list[Any]:
    records: list[Any] = []
    for partition in source.partitions():
        reader = source.open(partition)
        while (chunk := reader.read(5)) is not None:
            records += chunk.records
            assert not chunk.faults
        reader.close()
    return records


def positions_of(source: Source, partition: str) -> list[int]:
    """Of records and faults."""
    reader = source.open(partition)
    found: list[int] = []
    while (chunk := reader.read(5)) is not None:
        found += sorted([*chunk.positions, *(fault.position for fault in chunk.faults)])
    reader.close()
    return found


def read_if_there(path: Path, source: Source) -> list[Any]:
    assert not list(path.parent.glob("*.sage-tmp"))
    return read_all(source) if path.exists() else []


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_json_lines_source(tmp_path: Path, name: str) -> None:
    for content in (BROKEN_LINES, b"\xef\xbb\xbf" + BROKEN_LINES, b"", b"\n", b"1", b"x", b"\xef\xbb\xbf"):
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        check_source(JsonLines(tmp_path / name))
        check_source(JsonLines(tmp_path / name, max_record_bytes=6))


@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_the_first_records_of_a_source(tmp_path: Path, count: int) -> None:
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_bytes(BROKEN_LINES)
    source = JsonLines(tmp_path / "*.jsonl")
    check_source(First(source, count))
    check_source(First(Items(range(5)), count))
    for partition in source.partitions():
        assert positions_of(First(source, count), partition) == positions_of(source, partition)[:count]


@pytest.mark.parametrize(("source", "count"), [([1], 1), (Items([1]), 0), (Items([1]), True), (Items([1]), "2")])
def test_first_of_what_is_no_source_or_no_count(source: Any, count: Any) -> None:
    with pytest.raises(PipelineError, match="E217"):
        First(source, count)


@pytest.mark.parametrize("content", [b"", b"one", b"\xef\xbb\xbfone\ntwo\n", b"one\r\n\n\xff\nf\xc3\xbcnf\r\n\n" * 20])
def test_text_source(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.txt").write_bytes(content)
    check_source(Text(tmp_path / "in.txt"))
    check_source(Text(tmp_path / "in.txt", max_record_bytes=2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a,b",
        b"\xef\xbb\xbfa,b\n1,2\n",
        b'a,b\r\n1,"two\nlines"\r\n\r\n3\n"x"y,4\n\xff,5\n6,"7, ""8"""\n' * 5 + b'9,"never closed\n10,11\n12,13\n',
    ],
)
def test_csv_source(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    check_source(Csv(tmp_path / "in.csv"))
    check_source(Csv(tmp_path / "in.csv", header=False, columns=["a", "b"], max_record_bytes=12))


def test_glob_source(tmp_path: Path) -> None:
    for folder in ("a", "b/ö c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "part-1.jsonl").write_bytes(BROKEN_LINES)
    source = JsonLines(tmp_path / "**/*.jsonl")
    assert [name.rpartition("@")[0] for name in source.partitions()] == ["a/part-1.jsonl", "b/%C3%B6 c/part-1.jsonl"]
    check_source(source)


def test_directory_source(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.txt", "sub/c.txt", "other.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "broken.txt").write_bytes(b"\xff")
    (tmp_path / "large.txt").write_bytes(b"large" * 100)
    check_source(Directory(tmp_path, max_record_bytes=100))


def test_parquet_source(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"n": n, "nested": {"tags": ["a", None]}, "score": float("nan")} for n in range(50)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=12)
    check_source(Parquet(tmp_path / "in.parquet"))
    parquet.write_table(arrow.Table.from_pylist([], arrow.schema([("n", arrow.int64())])), tmp_path / "none.parquet")
    check_source(Parquet(tmp_path / "none.parquet"))


def test_items_source() -> None:
    check_source(Items(list(range(40))))
    check_source(Items(range(40)))
    check_source(Items(lambda: (n * n for n in range(40))))
    check_source(Items([]))
    check_source(Items(iter(range(40))))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_json_lines_sink(tmp_path: Path, name: str) -> None:
    target = JsonLines(tmp_path / name)
    check_sink(
        target, lambda: read_if_there(tmp_path / name, target), refused=[{"x": float("nan")}, {"y": {1}}, "\ud800"]
    )


def test_text_sink(tmp_path: Path) -> None:
    target = Text(tmp_path / "out.txt")
    check_sink(
        target,
        lambda: read_if_there(tmp_path / "out.txt", target),
        records=["one", "", "drei ä", "four"],
        refused=["a\nb", {"no": "text"}, "\ud800"],
    )


def test_csv_sink(tmp_path: Path) -> None:
    target = Csv(tmp_path / "out.csv")
    check_sink(
        target,
        lambda: read_if_there(tmp_path / "out.csv", target),
        records=[
            {"n": str(n), "text": text} for n, text in enumerate(["", "a,b", 'c"d', "e\nf", "g\rh", "i\r\nj", " "])
        ],
        refused=[{"n": "1", "text": "\ud800"}, {"n": 1, "other": 2}, "no row", {1: 2}],
    )


def test_parquet_sink(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    target = Parquet(tmp_path / "out.parquet")
    check_sink(
        target,
        lambda: read_if_there(tmp_path / "out.parquet", target),
        refused=[{"n": "text", "text": 1}, "no row", {}, {1: 2}],
    )


def test_sqlite_sink(tmp_path: Path) -> None:
    path = tmp_path / "out.db"

    def rows() -> list[Any]:
        if not path.exists():
            return []
        connection = sqlite3.connect(path)
        try:
            if not connection.execute("SELECT * FROM sqlite_master").fetchall():
                return []
            return [{"n": n, "text": text} for n, text in connection.execute("SELECT n, text FROM answers ORDER BY n")]
        finally:
            connection.close()

    refused = [{"n": float("nan")}, {"n": 1 << 63}, {"n": "\ud800"}, {"n": 1, "other": 2}, "no row"]
    check_sink(SQLite(path, "answers"), rows, refused=refused)


@pytest.mark.parametrize("key", [None, "n"])
def test_key_value_sink(tmp_path: Path, key: str | None) -> None:
    sink = KeyValue(tmp_path / "out.kv", key)

    def values() -> list[Any]:
        if not (tmp_path / "out.kv").exists():
            return []
        with closing(sink.entries()) as entries:
            return sorted(entries.values(), key=itemgetter("n"))

    refused = [{"n": object()}] if key is None else [{"n": None}, {"m": 1}, {"n": "\ud800"}, {"n": True}, "text"]
    check_sink(sink, values, refused=refused)


def test_a_record_that_comes_again_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    sink = KeyValue(tmp_path / "out.kv", "user")
    for batch in ([("ann", 1, "in/0"), ("bob", 2, "in/1"), ("ann", 3, "in/2")], [("ann", 1, "in/0")]):
        writer = sink.open(SinkContext("test", "write"))
        assert not writer.write([{"user": user, "n": n} for user, n, _ in batch], [rid for *_, rid in batch])
        writer.commit()
    with closing(sink.entries()) as entries:
        assert (len(entries), entries["ann"]["n"], entries["bob"]["n"]) == (2, 3, 2)
        assert list(entries) == ["ann", "bob"]
        with pytest.raises(KeyError):
            entries["cid"]
    (tmp_path / "other.kv").write_text("something else")
    with pytest.raises(SinkError, match=r"E554 this is not a SQLite database at .*other.kv"):
        KeyValue(tmp_path / "other.kv").check()
    with closing(sqlite3.connect(tmp_path / "foreign.kv")) as foreign, foreign:
        foreign.execute("CREATE TABLE entries (x)")
    with pytest.raises(SinkError, match=r"E554 this is no key-value file of SAGE at .*foreign.kv"):
        KeyValue(tmp_path / "foreign.kv").check()
