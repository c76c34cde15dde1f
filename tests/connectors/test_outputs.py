"""File sinks: whole or not at all, whatever goes wrong."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from private_mount import SOURCE, python_on_tmpfs

from sage.connectors import Csv, JsonLines, Parquet, Text
from sage.errors import SinkError
from sage.flow.sink import SinkContext, Writable, Writer

CONTEXT = SinkContext("test", "write")


def open_writer(target: Writable, *, append: bool = False) -> Writer:
    sink = target.sink()
    sink.check()
    return sink.open(SinkContext("test", "write", append))


def write(target: Writable, *records: Any, append: bool = False) -> None:
    writer = open_writer(target, append=append)
    assert not writer.write(records, [str(n) for n in range(len(records))])
    writer.commit()


def test_nothing_is_seen_before_commit_and_the_old_output_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    path.chmod(0o640)
    writer = open_writer(JsonLines(path))
    writer.write([{"new": 1}], ["a"])
    assert path.read_text() == "old\n"
    writer.commit()
    assert path.read_text() == '{"new":1}\n'
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_run_that_fails_puts_what_it_wrote_aside(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    assert open_writer(JsonLines(path)).abort() is None
    assert os.listdir(tmp_path) == ["out.jsonl"]
    for n in (1, 2):
        writer = open_writer(JsonLines(path))
        writer.write([n], ["a"])
        assert writer.abort() == f"{path}.partial"
        assert (tmp_path / "out.jsonl.partial").read_text() == f"{n}\n"
    assert path.read_text() == "old\n"
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.partial"]


@pytest.mark.parametrize("name", ["out.csv.gz", "out.parquet"])
def test_what_was_put_aside_can_be_read(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    target = Parquet(tmp_path / name) if name.endswith("parquet") else Csv(tmp_path / name)
    writer = open_writer(target)
    writer.write([{"a": "1"}], ["a"])
    aside = Path(str(writer.abort()))
    aside.rename(tmp_path / name)
    reader = target.open(target.partitions()[0])
    chunk = reader.read(10)
    assert chunk is not None
    assert chunk.records == [{"a": "1"}]
    reader.close()


@pytest.mark.parametrize("make", [JsonLines, Text, Csv, Parquet])
def test_an_empty_run_writes_an_empty_file(tmp_path: Path, make: Any) -> None:
    pytest.importorskip("pyarrow")
    target = make(tmp_path / "out")
    open_writer(target).commit()
    target.check()
    reader = target.open(target.partitions()[0])
    assert reader.read(1) is None
    reader.close()


def test_a_second_run_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    target = JsonLines(tmp_path / "out.jsonl")
    first = open_writer(target)
    first.write([1], ["a"])
    with pytest.raises(SinkError, match=r"E553 another run is writing this output at .*out\.jsonl"):
        open_writer(target)
    first.commit()
    write(target, 2)
    assert (tmp_path / "out.jsonl").read_text() == "2\n"


def test_what_a_killed_run_left_is_used_again(tmp_path: Path) -> None:
    script = f"""
import os, signal
from sage.connectors import JsonLines
from sage.flow.sink import SinkContext
writer = JsonLines({str(tmp_path / "out.jsonl")!r}).sink().open(SinkContext("test", "write"))
writer.write([{{"much": "text"}}] * 100, ["a"] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, check=False)
    assert killed.returncode == -9
    assert os.listdir(tmp_path) == [".out.jsonl.sage-tmp"]
    write(JsonLines(tmp_path / "out.jsonl"), 1)
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "1\n"


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".out.jsonl.sage-tmp").symlink_to("precious")
    with pytest.raises(SinkError, match="E556"):
        open_writer(JsonLines(tmp_path / "out.jsonl"))
    assert (tmp_path / "precious").read_text() == "precious"


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old\n")
    (tmp_path / "out.jsonl").symlink_to("real.jsonl")
    write(JsonLines(tmp_path / "out.jsonl"), 1)
    assert (tmp_path / "out.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == "1\n"


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_appending_mends_a_missing_last_newline(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    opened: Any = gzip.open if name.endswith("gz") else open

    def content() -> str:
        with opened(path, "rt") as file:
            return str(file.read())

    with opened(path, "wt") as file:
        file.write("1")
    write(JsonLines(path), 2, append=True)
    assert content() == "1\n2\n"
    writer = open_writer(JsonLines(path), append=True)
    assert writer.abort() is None
    write(JsonLines(path), 3, append=True)
    assert content() == "1\n2\n3\n"


def test_adding_to_what_is_empty_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"
    path.write_bytes(gzip.compress(b""))
    write(JsonLines(path), 1, append=True)
    assert gzip.decompress(path.read_bytes()) == b"1\n"
    path.write_bytes(cut := path.read_bytes()[:-3])
    with pytest.raises(SinkError, match=r"E554 the output that is there cannot be read at .*E305 broken gzip file"):
        open_writer(JsonLines(path), append=True)
    assert path.read_bytes() == cut
    assert os.listdir(tmp_path) == ["out.jsonl.gz"]


def test_appending_to_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SinkError, match="E554 the output that is there has other columns"):
        open_writer(Csv(tmp_path / "out.csv", columns=["a"]), append=True)
    write(Csv(tmp_path / "out.csv"), {"b": 4, "a": None}, append=True)
    assert (tmp_path / "out.csv").read_text() == "a,b\n1,2\n,4\n"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("make", [JsonLines, Text, Csv, Parquet])
def test_places_that_cannot_be_written(tmp_path: Path, make: Any) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path, r"E551 this is a folder, not a file at .* Try: .*/output\.jsonl"),
        (tmp_path / "no" / "out", r"E550 the folder of the output is not there at .* Try: mkdir -p .*/no"),
        (tmp_path / "file" / "out", "E550"),
        (tmp_path / "pipe", r"E551 this is not a regular file at .* Try: Stdout\(\)"),
        (tmp_path / "out-*", r"E551 an output is one file, not a pattern"),
        ("", "E551 this is not a path"),
        ("a\0b", "E551 this is not a path"),
        (f"{tmp_path}/new/", "E551 this is a folder"),
    ):
        with pytest.raises(SinkError, match=text):
            make(path).sink().check()
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]
    with pytest.raises(SinkError, match=r"E55. .* at /proc/out"):  # a folder that lies about its permissions
        make("/proc/out").sink().open(CONTEXT)


def test_a_read_only_folder(tmp_path: Path) -> None:
    script = """
from sage.connectors import JsonLines
from sage.errors import SinkError
for act in ("check", "open"):
    try:
        sink = JsonLines("out.jsonl").sink()
        sink.check() if act == "check" else sink.open(None)
    except SinkError as error:
        print(error)
"""
    printed = python_on_tmpfs(script, tmp_path, options="ro").splitlines()
    text = f"E551 the folder of the output cannot be written to at out.jsonl: got {tmp_path}. Try: another folder"
    assert printed == [text, text]


FULL = """
import os
from sage.connectors import *
from sage.errors import SinkError
from sage.flow.sink import SinkContext
targets = JsonLines("out.jsonl"), Csv("out.csv"), Text("out.txt"), JsonLines("out.jsonl.gz"), SQLite("out.db", "t")
for target in targets:
    writer = target.sink().open(SinkContext("test", "write"))
    written = 0
    try:
        while True:
            text = os.urandom(20_000).hex()
            writer.write([text if type(target) is Text else {"text": text}], [str(written)])
            written += 1
    except SinkError as error:
        print(error)
    aside = writer.abort()
    if aside and aside.endswith("out.jsonl.partial"):
        assert len(open(aside).read().splitlines()) == written
    for name in os.listdir():
        os.unlink(name)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    printed = python_on_tmpfs(FULL, tmp_path, options="size=300k").splitlines()
    assert len(printed) == 5, printed
    for line, name in zip(printed, ("out.jsonl", "out.csv", "out.txt", "out.jsonl.gz", "out.db"), strict=True):
        assert line.startswith(f"E552 no space left for the output at {name}")
        assert "Try: make room" in line


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    script += FULL.replace(', SQLite("out.db", "t")', "")
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = result.stdout.splitlines()
    assert [line[:4] for line in printed] == ["E552"] * 4
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_disk_that_is_full_two_bytes_before_the_end(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    script = f"""
import os, resource
from sage.connectors import *
from sage.errors import SinkError
from sage.flow.sink import SinkContext
def write():
    sink = (Parquet if {name!r}.endswith("parquet") else JsonLines)({name!r}).sink()
    writer = sink.open(SinkContext("test", "write"))
    try:
        writer.write([{{"n": n, "text": str(n) * 50}} for n in range(1000)], [str(n) for n in range(1000)])
        writer.commit()
    except SinkError as error:
        print(error.code, os.path.getsize({name!r}))
        writer.abort()
write()
size = os.path.getsize({name!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (size - 2, size - 2))
write()
print(size)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    failed, size = result.stdout.splitlines()
    assert failed == f"E552 {size}"


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(slots=True)
class Answer:
    text: str
    score: Any = None


class Passage(msgspec.Struct):
    title: str


def test_what_is_written_as_json(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    records: list[tuple[Any, Any]] = [
        (
            {"none": None, "yes": True, "int": 2**70, "float": 1.5},
            {"none": None, "yes": True, "int": 2**70, "float": 1.5},
        ),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ("line\nbreak", "line\nbreak"),
        (Answer("a", Answer("b")), {"text": "a", "score": {"text": "b", "score": None}}),
        ({"passages": [Passage("t")]}, {"passages": [{"title": "t"}]}),
        ([Colour.RED], ["red"]),
        (dt.datetime(2024, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-02-03T04:05:00Z"),
        ([dt.date(2024, 2, 3), dt.timedelta(seconds=90)], ["2024-02-03", "PT90S"]),
        ([UUID(int=1), Decimal("1.50")], ["00000000-0000-0000-0000-000000000001", "1.50"]),
        ({"vector": numpy.array([[1.5, 2.0]], dtype="float32")}, {"vector": [[1.5, 2.0]]}),
        ([numpy.int64(3), numpy.float64(0.5), numpy.bool_(True)], [3, 0.5, True]),
    ]
    write(JsonLines(tmp_path / "out.jsonl"), *(record for record, _ in records))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [expected for _, expected in records]


@pytest.mark.parametrize(
    ("record", "at"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]"),
        (float("-inf"), "$"),
        ({"a": {1, 2}}, "$.a"),
        ({"a": b"bytes"}, "$.a"),
        ({"a": {"b": object()}}, "$.a.b"),
        ({"a": Answer("x", float("nan"))}, "$.a.score"),
        ({"a": ["ok", "\ud800"]}, "$.a[1]"),
        ({"\ud800": 1}, "$ (key)"),
        ({"a": {1: 2}}, "$.a"),
        (Answer, "$"),
    ],
)
def test_what_is_refused_as_json(tmp_path: Path, record: Any, at: str) -> None:
    writer = open_writer(JsonLines(tmp_path / "out.jsonl"))
    (rejected,) = writer.write([{"ok": 1}, record, {"ok": 2}], ["a", "b", "c"])
    assert (rejected.index, rejected.error.code, rejected.error.at) == (1, "E406", at)
    writer.commit()
    assert (tmp_path / "out.jsonl").read_text() == '{"ok":1}\n{"ok":2}\n'


def test_a_record_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    writer = open_writer(JsonLines(tmp_path / "out.jsonl"))
    assert [rejected.index for rejected in writer.write([deep, 1], ["a", "b"])] == [0]
    assert writer.abort()


@pytest.mark.parametrize("job", ["", "7"])
def test_parquet_of_ragged_rows_loses_nothing(tmp_path: Path, job: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    writer = Parquet(path).sink().open(SinkContext("test", "write", job=job))
    batches = [[{"a": 1}, {"a": 2, "b": 3}], [{"b": 4}, {"c": {"x": 1}}, {"c": {"y": 2.5}}], [{"a": 1.5}] * 70_000]
    for batch in [*batches, [{"b": 5}]]:
        assert not writer.write(batch, ["r"] * len(batch))
    late = writer.write([{"b": 6}, {"late": 1}], ["x", "y"])  # the schema is fixed, but for a job's
    assert [(one.index, one.error.code) for one in late] == ([] if job else [(1, "E406")])
    writer.commit()
    rows = parquet.read_table(path).to_pylist()
    short = [{name: value for name, value in row.items() if value is not None} for row in [*rows[:5], *rows[70_005:]]]
    nested = [{"c": {"x": 1, "y": None}}, {"c": {"x": None, "y": 2.5}}]
    assert short == [{"a": 1}, {"a": 2, "b": 3}, {"b": 4}, *nested, {"b": 5}, {"b": 6}, *([{"late": 1}] if job else [])]


def test_parquet_finds_its_schema_and_keeps_it(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    writer = open_writer(Parquet(path))
    assert not writer.write([{"n": 1, "late": None}], ["a"])
    assert not writer.write([{"n": 1.5, "late": ["x"], "more": {"deep": 1}}], ["b"])
    assert [rejected.index for rejected in writer.write([{"n": 2}, {"n": "two"}, {"n": 3}], ["c", "d", "e"])] == [1]
    assert not writer.write([{"n": n} for n in range(70_000)], [str(n) for n in range(70_000)])
    assert [rejected.index for rejected in writer.write([{"n": 1, "new": 1}, {"n": 4}], ["f", "g"])] == [0]
    writer.commit()
    table = parquet.read_table(path)
    assert table.num_rows == 70_005
    assert table.schema.field("n").type == arrow.float64()
    assert table.slice(0, 2).to_pylist() == [
        {"n": 1.0, "late": None, "more": None},
        {"n": 1.5, "late": ["x"], "more": {"deep": 1}},
    ]
    with pytest.raises(SinkError, match="E554 the output has another schema"):
        open_writer(Parquet(path, arrow.schema([("x", arrow.int8())])), append=True)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(SinkError, match="E554 the output that is there is not Parquet"):
        open_writer(Parquet(tmp_path / "text.parquet"), append=True)
    writer = open_writer(Parquet(tmp_path / "given.parquet", arrow.schema([("x", arrow.int8())])))
    assert [rejected.index for rejected in writer.write([{"x": 1}, {"x": 1000}, {"y": 1}], ["a", "b", "c"])] == [1, 2]
    writer.abort()
