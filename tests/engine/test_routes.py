"""Streams that divide, meet again, or are used more than once."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import sage
from engines import Engine
from sage.connectors import Items, JsonLines, SQLite


def test_a_record_takes_the_first_branch_that_fits(engine: Engine) -> None:
    pipeline = sage.Pipeline("routes")
    branches = pipeline.read(Items(range(30))).route(small=lambda n: n < 10, even=lambda n: n % 2 == 0)
    branches.small.collect("small")
    branches["even"].map(str).collect("even")
    branches.otherwise.collect("rest")
    result = engine.run(pipeline)
    assert result.collected("small") == list(range(10))
    assert sorted(result.collected("even")) == [str(n) for n in range(10, 30, 2)]
    assert result.collected("rest") == list(range(11, 30, 2))
    assert result.account.created == 0
    assert list(branches) == ["small", "even", "otherwise"]


def test_without_otherwise_what_no_branch_takes_is_a_dead_letter(engine: Engine, letters: Any) -> None:
    result = engine.over(range(10), lambda s: s.route(small=lambda n: n < 7).small)
    assert result.collected() == list(range(7))
    assert [(letter["code"], letter["input"]) for letter in letters(result)] == [("E415", n) for n in (7, 8, 9)]


def test_a_predicate_that_raises(engine: Engine, letters: Any) -> None:
    pipeline = sage.Pipeline("routes")
    branches = pipeline.read(Items([1, 0, 2])).route(first=lambda n: 1 // n > 5, second=lambda n: True)
    branches.first.collect("first")
    branches.second.collect("second")
    result = engine.run(pipeline)
    assert (result.collected("first"), result.collected("second")) == ([], [1, 2])
    assert [letter["input"] for letter in letters(result)] == [0]


@pytest.mark.parametrize("parallelism", [1, 3])
def test_routes_meet_again_in_a_union(engine: Engine, parallelism: int) -> None:
    def build(stream: Any) -> Any:
        branches = stream.route(even=lambda n: n % 2 == 0)
        return branches.even.map(lambda n: -n, parallelism=parallelism).union(branches.otherwise, branches.even)

    result = engine.over(range(100), build)
    assert sorted(result.collected()) == sorted([-n for n in range(0, 100, 2)] + list(range(100)))
    assert result.account.created == 50


def test_a_union_of_several_sources(engine: Engine) -> None:
    pipeline = sage.Pipeline("sources")
    streams = [pipeline.read(Items(range(n * 1000, n * 1000 + 1000), name=f"part-{n}")) for n in range(3)]
    streams[0].union(*streams[1:]).collect()
    assert sorted(engine.run(pipeline).collected()) == list(range(3000))


def test_a_stream_united_with_itself(engine: Engine) -> None:
    assert sorted(engine.over([1, 2], lambda s: s.union(s)).collected()) == [1, 1, 2, 2]


def test_the_users_of_a_stream_have_copies_of_their_own(engine: Engine) -> None:
    def put(name: str) -> Any:
        def operator(record: Any) -> Any:
            if isinstance(record, dict):
                record[name] = True
            elif isinstance(record, list):
                record.append(name)
            else:
                record.add(name)
            return record

        return operator

    pipeline = sage.Pipeline("copies")
    stream = pipeline.read(Items([{"n": 1}, ["n"], {"n"}]))
    for name in "abc":
        stream.map(put(name), parallelism=2 if name == "b" else 1).collect(name)
    result = engine.run(pipeline)
    for name in "abc":
        found = result.collected(name)
        assert {"n": 1, name: True} in found
        assert ["n", name] in found
        assert {"n", name} in found
    assert (result.account.read, result.account.created, result.account.written) == (3, 6, 9)


@pytest.mark.parametrize("users", [2, 3])
def test_every_user_of_a_stream_gets_all_of_it(engine: Engine, users: int) -> None:
    pipeline = sage.Pipeline("copies")
    stream = pipeline.read(Items(range(5000))).map(lambda n: n + 1).filter(lambda n: n % 2)
    stream.collect("0")
    stream.map(lambda n: n, concurrency=3).collect("1")
    if users == 3:
        stream.map(awaited).collect("2")
    result = engine.run(pipeline)
    for user in range(users):
        assert sorted(result.collected(str(user))) == list(range(1, 5001, 2))
    assert result.account.created == 2500 * (users - 1)


async def awaited(n: int) -> int:
    return n


def test_copies_that_meet_in_one_sink_are_different_records(engine: Engine, tmp_path: Path) -> None:
    def build(stream: Any) -> None:
        double, square = stream.map(lambda r: {"n": 2 * r}), stream.map(lambda r: {"n": r * r})
        double.union(square).write(SQLite(tmp_path / "out.db", "rows"))

    result = engine.over([5, 6, 7], build)
    assert result.account.written == 6
    with sqlite3.connect(tmp_path / "out.db") as database:
        assert database.execute("select count(*) from rows").fetchone() == (6,)
    database.close()


def test_results_of_a_reduction_are_different_records(engine: Engine, tmp_path: Path) -> None:
    keys = [1, "1", "'1'", b"1", (1,), "a\nb", "a\\nb", "x" * 500 + "1", "x" * 500 + "2", None]

    def build(stream: Any) -> None:
        counted = stream.key_by(lambda r: r[0]).count()
        counted.map(lambda pair: {"key": repr(pair[0])}).write(SQLite(tmp_path / "out.db", "rows"))

    engine.over([(key,) for key in keys], build)
    database = sqlite3.connect(tmp_path / "out.db")
    assert {row[0] for row in database.execute("select key from rows")} == {repr(key) for key in keys}
    database.close()


def test_rids_tell_where_a_record_came_from(engine: Engine, tmp_path: Path) -> None:
    def build(stream: Any) -> None:
        words = stream.filter(lambda line: line != "skip").flat_map(str.split, name="split")
        words.filter(lambda word: word != "b").map(lambda word: {"word": word}).write(
            SQLite(tmp_path / "out.db", "rows")
        )

    engine.over(["a b c", "skip", "d"], build)
    database = sqlite3.connect(tmp_path / "out.db")
    assert dict(database.execute("select rid, word from rows")) == {
        "items/0/split/0": "a", "items/0/split/2": "c", "items/2/split/0": "d",
    }  # fmt: skip
    database.close()


def test_a_sink_on_each_branch(engine: Engine, tmp_path: Path) -> None:
    def build(stream: Any) -> None:
        branches = stream.route(low=lambda n: n < 50)
        branches.low.write(JsonLines(tmp_path / "low.jsonl"))
        branches.otherwise.write(JsonLines(tmp_path / "high.jsonl"))
        stream.filter(lambda n: False).write(JsonLines(tmp_path / "none.jsonl"))

    result = engine.over(range(100), build)
    lines = {path.name: path.read_text().split() for path in tmp_path.glob("*.jsonl")}
    assert lines == {
        "low.jsonl": [str(n) for n in range(50)], "high.jsonl": [str(n) for n in range(50, 100)], "none.jsonl": [],
    }  # fmt: skip
    assert (result.account.written, result.account.filtered, result.account.created) == (100, 100, 100)
