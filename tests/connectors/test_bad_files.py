"""Files that are missing, broken, too large or changed while they are read."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sage.connectors import Csv, Directory, Items, JsonLines, Parquet, Text
from sage.errors import PipelineError, RecordError, SourceError
from sage.flow.source import Chunk, Reader, Source


def read_all(source: Source, max_records: int = 1000) -> Chunk:
    source.check()
    whole = Chunk([], positions := [], faults := [])
    for partition in source.partitions():
        reader = source.open(partition)
        try:
            while (chunk := reader.read(max_records)) is not None:
                whole.records.extend(chunk.records)
                positions.extend(chunk.positions)
                faults.extend(chunk.faults)
        finally:
            reader.close()
    return whole


def drain(reader: Reader) -> None:
    while reader.read(1) is not None:
        pass


def test_line_7_of_10_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    lines = [f'{{"n": {n}}}' for n in range(1, 11)]
    lines[6] = '{"n": 7'
    path.write_text("\n".join(lines))
    found = read_all(JsonLines(path))
    assert [record["n"] for record in found.records] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    (fault,) = found.faults
    assert str(fault.error).startswith(f'E401 not valid JSON at {path}:7: got {{"n": 7, expected one JSON value')
    assert (fault.position, fault.raw) == (54, '{"n": 7')
    assert JsonLines(path).decode(fault.raw + "}") == {"n": 7}
    with pytest.raises(RecordError, match="E401 not valid JSON at the mended record"):
        JsonLines(path).decode(fault.raw)


def test_a_fault_names_its_line_also_when_reading_began_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("1\n2\n3\nx\n")
    source = JsonLines(path)
    reader = source.open(source.partitions()[0], 4)
    chunk = reader.read(10)
    reader.close()
    assert chunk is not None
    assert chunk.records == [3]
    assert f"{path}:4:" in str(chunk.faults[0].error)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"NaN", "E401"),
        (b'{"a": Infinity}', "E401"),
        (b'"\\ud800"', "E401"),
        (b'"\\ud800\\u0041"', "E401"),
        (b'"\xff"', "E403"),
        (b'"\xed\xa0\x80"', "E403"),
        (b"null", "E402"),
        (b"1e999", "E401"),
        (b"[" * 100_000, "E401"),
        (b"1 2", "E401"),
        (b"[1\n,2]", "E401"),
        (b'"nul \x00"', "E401"),
    ],
)
def test_json_that_is_not_taken(tmp_path: Path, line: bytes, code: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n[1]\n")
    found = read_all(JsonLines(path))
    assert found.records == [{"a": 1}, [1]]
    assert {fault.error.code for fault in found.faults} == {code}
    assert str(path) + ":2" in str(found.faults[0].error)


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (b"", []),
        (b"\n\r\n  \n", []),
        (b'{"only": 1}', [{"only": 1}]),
        (b"\xef\xbb\xbf1\r\n2\r\n", [1, 2]),
        (b'"\\u00fc \\ud83d\\ude00"\n', ["ü 😀"]),
        (b"1180591620717411303424\n", [2**70]),
        (b'{"a": 1, "a": 2}\n', [{"a": 2}]),
    ],
)
def test_json_lines_that_are_fine(tmp_path: Path, content: bytes, records: list[Any]) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    found = read_all(JsonLines(tmp_path / "in.jsonl"))
    assert found.records == records
    assert not found.faults


@pytest.mark.parametrize("make", [JsonLines, Text, Csv])
def test_a_record_of_64_mb_is_never_held(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(b'"first"\n"')
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b'"\n"last"\n')
    tracemalloc.start()
    try:
        found = read_all(make(path, max_record_bytes=1 << 20))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (fault,) = found.faults
    assert str(fault.error).startswith(f"E404 the record is too large at {path}:2: got 67,108,867 bytes")
    assert len(fault.raw) == 64 * 1024
    assert len(found.records) == (1 if make is Csv else 2)
    assert peak_bytes < 5 << 20


def test_missing_files_are_named_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("1\n")
    with pytest.raises(
        SourceError, match=r"E301 there is no such file at .*question\.jsonl\. Try: .*/questions\.jsonl$"
    ):
        JsonLines(tmp_path / "question.jsonl").check()
    with pytest.raises(SourceError, match="E301 no file matches"):
        JsonLines(tmp_path / "*.json").check()
    with pytest.raises(SourceError, match=r"E301.*the folder .*nowhere' is not there"):
        JsonLines(tmp_path / "nowhere" / "a.jsonl").check()
    with pytest.raises(SourceError, match=r"E301.*questions\.jsonl/x"):
        Text(tmp_path / "questions.jsonl" / "x").check()
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(SourceError, match="E301"):
        Text(tmp_path / "dangling").check()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match="E306"):
        Text(tmp_path / "loop").check()
    for path in ("", "a\0b"):
        with pytest.raises(SourceError, match="E30"):
            Text(path).check()


@pytest.mark.parametrize("make", [JsonLines, Text, Csv, Parquet])
def test_what_is_no_file(tmp_path: Path, make: Any) -> None:
    with pytest.raises(SourceError, match=r"E303 this is a folder, not a file .* Try: .*Directory\(\)"):
        make(tmp_path).check()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"E303 this is not a regular file .* Try: Stdin\(\)"):
        make(tmp_path / "pipe").check()


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.jsonl"
    path.write_text("1\n")
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(tmp_path, 65534, -1)
            os.seteuid(65534)
        with pytest.raises(SourceError, match=r"E304 no permission to read at .*secret\.jsonl"):
            JsonLines(path).check()
    except SourceError:
        pytest.skip("the folder of the tests is closed to others")
    finally:
        if root:
            os.seteuid(0)


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(SourceError, match=r"E307 this is UTF-16, not UTF-8 at .*in\.csv\. Try: iconv"):
        Csv(tmp_path / "in.csv").check()


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "checksum"])
def test_broken_gzip(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "in.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(100_000)))
    path.write_bytes({"truncated": whole[:-2000], "not gzip": b"plain\n", "checksum": whole[:-5] + b"12345"}[damage])
    with pytest.raises(SourceError, match=r"E305 broken gzip file at .*in\.jsonl\.gz"):
        read_all(JsonLines(path))


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("1\n2\n")
    source = JsonLines(path)
    (partition,) = source.partitions()
    reader = source.open(partition)
    reader.read(1)
    with path.open("a") as file:
        file.write("3\n")
    with pytest.raises(SourceError, match=r"E302 the file changed since reading it began at .*in\.jsonl"):
        drain(reader)
    reader.close()
    with pytest.raises(SourceError, match="E302"):
        source.open(partition, 2)
    path.unlink()
    with pytest.raises(SourceError, match="E301"):
        source.open(partition)


def test_a_copy_has_the_same_rids_and_other_content_has_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "in.jsonl", tmp_path / "b" / "in.jsonl"
    middle = b"x" * 200_000
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes(b"first\n" + middle + b"\nlast\n")
    os.utime(second, (1, 1))
    assert Text(first).partitions() == Text(second).partitions()
    second.write_bytes(b"first\n" + middle + b"\nLAST\n")
    assert Text(first).partitions() != Text(second).partitions()


def test_csv_rows_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'a,b\n1,"two\nlines"\n3\n4,"x"y\n5,\xff\n6,"never closed\n7,8\n')
    found = read_all(Csv(path), max_records=2)
    assert found.records == [{"a": "1", "b": "two\nlines"}, {"a": "7", "b": "8"}]
    assert found.positions == [4, 47]
    assert [(fault.error.code, fault.error.at) for fault in found.faults] == [
        ("E405", f"{path}:4"),
        ("E405", f"{path}:5"),
        ("E403", f"{path}:6"),
        ("E405", f"{path}:7"),
    ]
    assert Csv(path).decode("3,4\n") == {"a": "3", "b": "4"}
    for still_broken in ("3\n", '3,"', "1,2\n3,4\n", ""):
        with pytest.raises(RecordError, match=r"E405 .* at the mended row"):
            Csv(path).decode(still_broken)


def test_csv_headers(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a;a\n1;2\n")
    with pytest.raises(SourceError, match="E308 the header row has a name twice"):
        Csv(path, delimiter=";").check()
    with pytest.raises(SourceError, match="E308 the header row has other names"):
        Csv(path, columns=["a;b"]).check()
    with pytest.raises(PipelineError, match="E217 no names for the columns"):
        Csv(path, header=False).check()
    with pytest.raises(PipelineError, match="E217 wrong delimiter for Csv: got '', expected one character"):
        Csv(path, delimiter="")
    assert read_all(Csv(path, header=False, columns=["x"])).records == [{"x": "a;a"}, {"x": "1;2"}]


def test_directory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "b.txt").write_bytes(b"\xef\xbb\xbfb\r\n")
    (root / "sub" / "a.txt").write_text("ä")
    (root / "broken.txt").write_bytes(b"\xff")
    (tmp_path / "outside.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "same.txt").symlink_to(root / "b.txt")
    (root / ".#b.txt").symlink_to("user@machine.17")  # as Emacs locks a file
    (root / "self.txt").symlink_to("self.txt")
    found = read_all(Directory(root))
    assert [record["path"] for record in found.records] == ["b.txt", "same.txt", "sub/a.txt"]
    assert [record["text"] for record in found.records] == ["b\r\n", "b\r\n", "ä"]
    assert [(fault.position, fault.error.code) for fault in found.faults] == [
        (0, "E408"), (2, "E403"), (4, "E408"),
    ]  # fmt: skip
    (partition,) = Directory(root).partitions()
    (root / "new.txt").write_text("new")
    with pytest.raises(SourceError, match="E302"):
        Directory(root).open(partition)
    with pytest.raises(SourceError, match=r"E301 there is no such folder .*Try: Text\("):
        Directory(root / "b.txt").check()
    with pytest.raises(SourceError, match="E301 no file matches"):
        Directory(root, "*.pdf").check()
    with pytest.raises(SourceError, match="E306"):
        Directory(root, "/etc/*").check()


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SourceError, match=r"E307 this is not a whole Parquet file at .*in\.parquet"):
        Parquet(tmp_path / "in.parquet").check()


def test_items() -> None:
    def failing() -> Any:
        yield from range(3)
        raise KeyError("user's own")

    reader = Items(failing).open("items")
    assert reader.read(100) == Chunk([0], range(1))
    assert reader.read(100) == Chunk([1, 2], range(1, 3))
    with pytest.raises(SourceError, match=r"E309 the iterable raised KeyError at items/3: got .user's own") as raised:
        reader.read(100)
    assert isinstance(raised.value.__cause__, KeyError)
    assert Items([1]).replayable
    assert not Items(iter([1])).replayable
    used, fresh = (n for n in range(2)), (n for n in range(2))
    assert [*used, next(fresh)] == [0, 1, 0]
    Items(fresh).check()
    with pytest.raises(SourceError, match=r"E302 the generator was read to its end already at Items 'used'"):
        Items(used, name="used").check()
    for wrong in ("text", b"bytes", {"a": 1}, 3):
        with pytest.raises(PipelineError, match="E217 Items needs an iterable of records"):
            Items(wrong)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="E309 the iterable raised TypeError"):
        Items(lambda: 3).open("items").read(1)  # type: ignore[arg-type, return-value]


def test_an_iterator_is_not_waited_for_until_a_chunk_is_full() -> None:
    produced: list[int] = []

    def slow() -> Any:
        for n in range(1000):
            produced.append(n)
            yield n

    reader = Items(slow).open("items")
    assert reader.read(500) == Chunk([0], range(1))
    assert produced == [0]
