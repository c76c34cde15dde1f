"""Sources and sinks that fail: nothing is lost, and nothing half-written stands in place of an output."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

import sage
from engines import Engine
from live import Live
from sage import RecordError, SinkError, SourceError, Status
from sage.connectors import Items, JsonLines, Text
from sage.flow import Chunk, Fault, Reader, Rejected, Sink, SinkContext, Source, Writer


class Book(Live):
    """A sink's memory. `refuse` is asked before each write and may raise, or return what to refuse."""

    def __init__(self, refuse: Callable[[list[Any]], Sequence[Rejected]] = lambda records: ()) -> None:
        self.refuse = refuse
        self.pages: list[Any] = []
        self.rids: list[str] = []
        self.ended = ""
        self.closing: Callable[[str], None] = lambda how: None


class BookSink(Sink):
    idempotent: ClassVar[bool] = True

    def __init__(self, book: Book) -> None:
        self.book = book

    def check(self) -> None:
        return

    def open(self, context: SinkContext) -> Writer:
        return BookWriter(self.book)


class BookWriter(Writer):
    def __init__(self, book: Book) -> None:
        self.book = book

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        rejected = self.book.refuse(list(records))
        refused = {entry.index for entry in rejected}
        self.book.pages += [record for index, record in enumerate(records) if index not in refused]
        self.book.rids += [rid for index, rid in enumerate(rids) if index not in refused]
        return rejected

    def commit(self) -> None:
        self.book.closing("commit")
        self.book.ended += "committed"

    def abort(self) -> str | None:
        self.book.ended += "aborted"
        self.book.closing("abort")
        return "the shelf"


def test_what_a_sink_gets(engine: Engine) -> None:
    book = Book()
    result = engine.over(["abc"] * 3000, lambda s: s.write(BookSink(book)))
    assert book.pages == ["abc"] * 3000
    assert book.rids == [f"items/{n}" for n in range(3000)]
    assert (book.ended, result.put_aside) == ("committed", ())


@pytest.mark.parametrize("poison", [{0}, {99}, {3, 4, 50}, set(range(100))])
def test_a_batch_that_fails_is_halved_until_the_record_at_fault_is_alone(
    engine: Engine, letters: Any, poison: set[int]
) -> None:
    def refuse(records: list[Any]) -> Sequence[Rejected]:
        if poison & set(records):
            raise ValueError("poison")
        return ()

    book = Book(refuse)
    result = engine.over(range(100), lambda s: s.write(BookSink(book)))
    assert sorted(book.pages) == sorted(set(range(100)) - poison)
    assert {letter["input"] for letter in letters(result)} == poison
    assert result.status is Status.SUCCEEDED_WITH_DEAD_LETTERS
    assert book.ended == "committed"


@pytest.mark.parametrize("refused", [{0}, {99}, {3, 4, 50}, set(range(100))])
def test_records_that_a_sink_refuses_are_dead_letters(engine: Engine, letters: Any, refused: set[int]) -> None:
    book = Book(lambda records: [Rejected(i, RecordError("E499", "no")) for i, r in enumerate(records) if r in refused])
    result = engine.over(range(100), lambda s: s.write(BookSink(book)))
    assert sorted(book.pages) == sorted(set(range(100)) - refused)
    assert sorted(letter["input"] for letter in letters(result)) == sorted(refused)
    assert {letter["reason"] for letter in letters(result)} == {"E499 no"}


def test_a_sink_that_needs_a_second_attempt(engine: Engine) -> None:
    calls: list[int] = []

    def refuse(records: list[Any]) -> Sequence[Rejected]:
        calls.append(len(records))
        if len(calls) < 3:
            raise ConnectionErrorOfSomeLibrary
        return ()

    book = Book(refuse)
    result = engine.over([1, 2], lambda s: s.write(BookSink(book), retries=2))
    assert (book.pages, calls) == ([1, 2], [2, 2, 2])
    assert result.status is Status.SUCCEEDED


class ConnectionErrorOfSomeLibrary(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "words"), [(OSError(28, "No space left on device"), "E556"), (SinkError("E556", "gone"), "E556 gone")]
)
def test_a_sink_that_is_broken_ends_the_run(engine: Engine, error: Exception, words: str) -> None:
    def refuse(records: list[Any]) -> Sequence[Rejected]:
        if 50 in records:
            raise error
        return ()

    book = Book(refuse)
    result = engine.over(range(100), lambda s: s.write(BookSink(book)))
    assert result.status is Status.FAILED
    assert isinstance(result.error, SinkError)
    assert words in str(result.error)
    assert result.error.exit_code == 5
    assert (book.ended, result.put_aside) == ("aborted", ("the shelf",))
    assert result.account.dead_lettered == 0
    assert result.account.written == len(book.pages)
    assert result.account.unfinished == result.account.read - result.account.written


ENDINGS = [OSError(5, "I/O error"), ValueError("odd"), SinkError("E556", "gone")]


@pytest.mark.parametrize("error", ENDINGS)
def test_a_commit_that_fails(engine: Engine, error: Exception) -> None:
    book = Book()

    def closing(how: str) -> None:
        if how == "commit":
            raise error

    book.closing = closing
    result = engine.over([1], lambda s: s.write(BookSink(book)))
    assert result.status is Status.FAILED
    assert isinstance(result.error, SinkError)
    assert book.ended == "aborted"


@pytest.mark.parametrize("error", ENDINGS)
def test_an_abort_that_fails_leaves_the_reason_of_the_run(engine: Engine, error: Exception) -> None:
    broken, other = Book(), Book()

    def closing(how: str) -> None:
        raise error

    broken.closing = closing

    def build(stream: Any) -> None:
        stream.write(BookSink(broken))
        stream.map(lambda x: 1 // 0, on_error="fail").write(BookSink(other))

    result = engine.over([1], build)
    assert "ZeroDivisionError" in str(result.error)
    assert other.ended == "aborted"
    assert sorted(result.put_aside)[0].startswith("nowhere")


def test_a_sink_that_cannot_be_opened(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "kept.jsonl").write_text("old\n")

    class Opens(Sink):
        def check(self) -> None:
            return

        def open(self, context: SinkContext) -> Writer:
            raise OSError(13, "Permission denied")

    def build(stream: Any) -> None:
        stream.write(Opens())
        stream.write(JsonLines(folder / "kept.jsonl"))

    result = engine.over([1], build)
    assert result.status is Status.FAILED
    assert "Permission denied" in str(result.error)
    assert isinstance(result.error, SinkError)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("kept.jsonl", "old\n")]


def test_a_run_that_fails_leaves_the_output_of_the_run_before(engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "out.jsonl"
    engine.over([1, 2], lambda s: s.write(JsonLines(place)))
    result = engine.over(
        [3, 4, 0], lambda s: s.map(lambda n: 1 // n, concurrency=1, on_error="fail").write(JsonLines(place))
    )
    assert result.status is Status.FAILED
    assert place.read_text() == "1\n2\n"


def test_append_adds_to_the_output(engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "out.jsonl"
    engine.over([1, 2], lambda s: s.write(JsonLines(place)))
    engine.over([3], lambda s: s.write(JsonLines(place)), append=True)
    assert place.read_text() == "1\n2\n3\n"


class Parts(Source):
    """Brings `parts`: chunks, or exceptions that are raised."""

    def __init__(self, parts: list[Any], diary: Live | None = None) -> None:
        self.parts = parts
        self.diary = diary

    def check(self) -> None:
        return

    def partitions(self) -> Sequence[str]:
        return ("parts",)

    def open(self, partition: str, position: int = 0) -> Reader:
        return PartsReader(list(self.parts), self.diary)


class PartsReader(Reader):
    def __init__(self, parts: list[Any], diary: Any) -> None:
        self.parts = parts
        self.diary = diary

    def read(self, max_records: int) -> Chunk | None:
        if not self.parts:
            return None
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    def close(self) -> None:
        if self.diary is not None:
            self.diary.closed = True


class Closing(Live):
    closed = False


@pytest.mark.parametrize("error", [SourceError("E306", "unplugged"), OSError(5, "I/O error"), ValueError("odd")])
def test_a_source_that_fails_in_the_middle(engine: Engine, tmp_path: Path, error: Exception) -> None:
    diary = Closing()
    pipeline = sage.Pipeline("broken")
    source = Parts([Chunk([1, 2], range(2)), error, Chunk([3], range(2, 3))], diary)
    pipeline.read(source, name="numbers").write(JsonLines(tmp_path / "out.jsonl"))
    result = engine.run(pipeline)
    assert result.status is Status.FAILED
    assert isinstance(result.error, SourceError), result.error
    assert result.error.exit_code == 4
    assert str(error) in str(result.error) or "I/O error" in str(result.error)
    assert not (tmp_path / "out.jsonl").exists()
    assert result.account.read == 2
    assert diary.closed


def test_an_iterable_that_raises_in_the_middle(engine: Engine) -> None:
    def items() -> Any:
        yield 1
        yield 2
        raise ValueError("no more")

    result = engine.over(items, lambda s: s)
    assert result.status is Status.FAILED
    assert "E309" in str(result.error)
    assert "no more" in str(result.error)
    assert result.account.read == 2


def test_faults_of_a_source_are_dead_letters(engine: Engine, letters: Any) -> None:
    fault = Fault(1, b"\xff", RecordError("E401", "not text"))
    chunks = [Chunk(["a"], [0], [fault]), Chunk([], [], [Fault(2, "?", RecordError("E401", "odd"))]), Chunk(["b"], [3])]
    pipeline = sage.Pipeline("faults")
    pipeline.read(Parts(chunks), name="numbers").collect()
    result = engine.run(pipeline)
    assert result.collected() == ["a", "b"]
    assert [(letter["rid"], letter["input"], letter["step"]) for letter in letters(result)] == [
        ("parts/1", b"\xff", "numbers"), ("parts/2", "?", "numbers"),
    ]  # fmt: skip
    assert result.account.read == 4


def test_sources_and_sinks_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    pipeline = sage.Pipeline("unready")
    touched: list[int] = []

    def items() -> Any:
        touched.append(1)
        return [1]

    pipeline.read(Items(items)).write(JsonLines(tmp_path / "no folder" / "out.jsonl"))
    pipeline.read(Text(tmp_path / "missing.txt")).collect()
    with pytest.raises(sage.PipelineError, match=r"(?s)E200 2 problems.*E550.*E301") as caught:
        sage.run(pipeline)
    assert caught.value.exit_code == 3
    assert touched == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single(engine: Engine, tmp_path: Path, count: int) -> None:
    result = engine.over(range(count), lambda s: s.map(str).write(Text(tmp_path / "out.txt")))
    assert result.status is Status.SUCCEEDED
    assert (tmp_path / "out.txt").read_text() == "0\n" * count
    assert str(result.account) == f"read {count} = written {count} + dead-lettered 0 + filtered 0"


def test_a_source_without_partitions(engine: Engine) -> None:
    class Nothing(Parts):
        def partitions(self) -> Sequence[str]:
            return ()

    pipeline = sage.Pipeline("nothing")
    pipeline.read(Nothing([])).map(str).key_by(str).count().collect()
    assert engine.run(pipeline).collected() == []


def test_a_result_says_in_a_line_how_it_ended_and_what_was_collected(tmp_path: Path) -> None:
    pipeline = sage.Pipeline("told")
    pipeline.read(Items([1, 0])).map(lambda n: 1 / n).collect("inverses")
    result = sage.run(pipeline, dead_letters=tmp_path / "told.dead.jsonl")
    account = "read 2 = written 1 + dead-lettered 1 + filtered 0"
    where = f"dead letters in {tmp_path}/told.dead.jsonl"
    assert repr(result) == f"<RunResult of 'told': SUCCEEDED_WITH_DEAD_LETTERS, {account}, {where}>"
    with pytest.raises(KeyError, match=r"no collect\('collect'\) in this pipeline, but 'inverses'"):
        result.collected()


def test_a_sink_that_ends_its_thread_is_how_the_run_ends(engine: Engine) -> None:
    book = Book()

    def leave(how: str) -> None:
        raise SystemExit(f"the library calls sys.exit at {how}")

    book.closing = leave
    result = engine.over([1, 2], lambda s: s.write(BookSink(book)))
    assert (result.status, result.error and result.error.code) == (Status.FAILED, "E411")
    assert len(result.put_aside) == 1
    assert "nowhere" in result.put_aside[0]


@pytest.mark.once
def test_a_defect_at_the_end_of_a_run_is_heard_of(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    def breaks(*_: object) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr("sage.runtime.job.imbalance", breaks)
    book = Book()
    result = engine.over([1, 2], lambda s: s.write(BookSink(book)))
    assert result.status is Status.FAILED
    assert "a defect" in str(result.error)
    assert book.ended == "aborted"


@pytest.mark.once
def test_ctrl_c_before_a_run_has_begun() -> None:
    class Pressing(Items):
        def check(self) -> None:
            signal.raise_signal(signal.SIGINT)

    pipeline = sage.Pipeline("early")
    pipeline.read(Pressing([1, 2, 3])).collect()
    with pytest.raises(KeyboardInterrupt, match="read 0"):
        sage.run(pipeline)
