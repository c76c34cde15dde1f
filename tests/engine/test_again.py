"""Runs that lose a host and begin again by themselves: nothing is lost, nothing comes twice."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import sage
from engines import ProcessEngine
from live import Gate, Notes
from patience import DEADLINE_S
from sage import Operator, OperatorContext, Status
from sage.connectors import Items, JsonLines
from sage.errors import HostError
from sage.flow.sink import Rejected, Sink, SinkContext, Writer
from sage.flow.source import Chunk, Reader
from sage.runtime import handover, member
from sage.runtime.control import Control
from sage.runtime.durability.audit import bill
from sage.runtime.durable import Progress
from sage.runtime.ledger import DurableBook
from sage.runtime.processes import ProcessEngine as Engine
from sage.runtime.recall import HOLD_S
from sage.runtime.restarts import Restarts
from sage.runtime.retained import Retained
from sage.runtime.suspects import Suspects, Try, Watch

Letters = Callable[[sage.RunResult], list[dict[str, Any]]]
Wait = Callable[[Callable[[], object]], None]
engine = ProcessEngine()


class Killing(Operator):
    """Kills its process, once at each of these records; `opening` of its instances die when they are opened."""

    def __init__(self, at: Sequence[int], opening: Sequence[int] = (), call: Callable[[int], Any] = int) -> None:
        self.left = Notes(at)
        self.openings = Notes()
        self.opening = set(opening)
        self.call = call

    def open(self, context: OperatorContext) -> None:
        self.openings.append(os.getpid())
        if self.openings.counted() in self.opening:
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, record: int) -> Any:
        if record in tuple(self.left.rest()):
            self.left.remove(record)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.call(record)


class Appending(Sink):
    """Neither idempotent nor able to go on elsewhere: what is written twice is there twice."""

    idempotent = False

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.ends: list[str] = []

    def check(self) -> None:
        """It can."""

    def open(self, context: SinkContext) -> Writer:
        return AppendingWriter(self)


class AppendingWriter(Writer):
    def __init__(self, sink: Appending) -> None:
        self.sink = sink

    def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
        self.sink.written += records
        return ()

    def commit(self) -> None:
        self.sink.ends.append("commit")

    def abort(self) -> None:
        self.sink.ends.append("abort")


def picky(n: int) -> int:
    if n % 50 == 7:
        raise ValueError(n)
    return n


@pytest.mark.parametrize(
    "once",
    [pytest.param(False, marks=pytest.mark.thorough, id="readable again"), pytest.param(True, id="readable once")],
)
def test_everything_is_exact_after_two_losses(once: bool, letters: Letters) -> None:
    """At every kind of end: a sink, a list, a reduction, dead letters, and records that are dropped or multiplied."""
    sink, killing = Appending(), Killing([400, 1500], call=picky)
    numbers = range(2000)
    pipeline = sage.Pipeline("exact")
    source = pipeline.read(Items(iter(numbers) if once else lambda: iter(numbers)))
    worked = source.map(killing, name="work")
    worked.write(sink, name="sink")
    worked.filter(lambda n: n % 3 == 0).flat_map(lambda n: [n, n], name="twice").collect("list")
    worked.key_by(lambda n: n % 7).count().collect("counts")
    result = engine.run(pipeline)
    assert result.error is None
    assert result.restarts
    assert not killing.left
    good = [n for n in numbers if n % 50 != 7]
    assert sorted(sink.written) == good
    assert sink.ends == ["commit"]
    assert sorted(result.collected("list")) == sorted(2 * [n for n in good if n % 3 == 0])
    assert dict(result.collected("counts")) == Counter(n % 7 for n in good)
    assert result.account.read + result.earlier == 2000
    assert result.status is Status.SUCCEEDED_WITH_DEAD_LETTERS
    assert sorted(letter["rid"] for letter in letters(result)) == sorted(f"items/{n}" for n in range(7, 2000, 50))


def test_a_loss_while_it_begins_again_and_one_behind_a_reduction() -> None:
    """The second process dies as it opens, the third when the reduction has told some of its results."""
    work, behind = Killing([300], opening=[3]), Killing([30])
    pipeline = sage.Pipeline("again")
    keys = pipeline.read(Items(range(600))).map(work, name="work").key_by(lambda n: n % 60)
    keys.count().map(lambda pair: pair[0], name="key").map(behind, name="behind").collect()
    result = engine.run(pipeline)
    assert result.error is None
    assert result.restarts
    assert not work.left
    assert not behind.left
    assert sorted(result.collected()) == list(range(60))


@pytest.mark.thorough
def test_a_process_that_stands_still_is_replaced(wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LEASE_TICKS", 3)
    pids, gate = Notes(), Gate()

    def work(n: int) -> int:
        if n == 50:
            pids.append(os.getpid())
            gate.wait()
        return n

    pipeline = sage.Pipeline("still")
    pipeline.read(Items(range(100))).map(work).collect()
    job = engine.start(pipeline)
    wait_until(lambda: pids)
    os.kill(pids[0], signal.SIGSTOP)
    gate.open()
    result = job.wait(DEADLINE_S)
    assert "nothing was heard of it for 3 s" in result.restarts[0]
    assert sorted(result.collected()) == list(range(100))


def test_what_a_thread_brings_that_noticed_too_late_does_not_count() -> None:
    """A step at home is in a long call when a process dies; the run goes on without it."""
    began, reached, gate = Notes(), Gate(), Gate()
    sink = Appending()

    def long(n: int) -> int:
        began.append(n)
        if n == 3 and began.count(3) == 1:
            reached.open()
            gate.wait()
        return n

    def behind_it(n: int) -> int:
        reached.wait()
        return n

    pipeline = sage.Pipeline("late")
    source = pipeline.read(Items(range(10)))
    source.map(long, concurrency=2, name="long").write(sink, name="sink")
    source.map(behind_it, name="behind").map(Killing([7]), name="work").collect()
    result = engine.run(pipeline)
    gate.open()
    assert len(result.restarts) == 1
    assert result.error is None
    assert sorted(sink.written) == list(range(10))
    assert sorted(result.collected()) == list(range(10))


@pytest.mark.parametrize(
    "sees_files", [pytest.param(True, id="files"), pytest.param(False, marks=pytest.mark.thorough, id="asking")]
)
def test_a_job_directory_goes_on_beneath(sees_files: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No finished call is made again, neither when the run begins again nor when another run goes on."""
    monkeypatch.setattr(Engine, "sees_files", sees_files)
    calls = Notes()

    def call(n: int) -> dict[str, Any]:
        calls.append(n)
        time.sleep(1.2 * HOLD_S)  # results of quicker calls wait for one another, and are lost together
        return {"n": n, "text": "x" * (100_000 if n % 50 == 0 else 10)}

    killing = Killing((30, 60), call=call)  # another one would be another step, whose calls are made anew

    def pipeline(*, fails: bool = False) -> sage.Pipeline:
        made = sage.Pipeline("job")
        stream = made.read(Items(range(150))).map(killing, name="call", durable=True)
        stream.map(lambda one: one["n"]).map(
            lambda n: _cut(n, fails), name="cut", on_error="fail", parallelism=1
        ).write(JsonLines("out.jsonl"))
        return made

    first = engine.run(pipeline(fails=True), job_dir=Path("job"))
    assert first.status is Status.FAILED
    assert first.restarts
    killing.left.append(120)
    second = engine.run(pipeline(), job_dir=Path("job"))
    assert second.error is None
    assert second.restarts
    assert sorted(map(json.loads, Path("out.jsonl").read_text().splitlines())) == list(range(150))
    (told,) = bill(Path("job"))
    assert told.paid == 150
    assert len(calls) <= 150 + 2 * 3  # at each loss, the calls that were in flight in its process and in the other


def _cut(n: int, fails: bool) -> int:
    if fails and n > 100:
        raise ValueError("the end of the first run")
    return n


def test_a_record_that_kills_its_process_is_a_dead_letter_after_three_deaths(letters: Letters) -> None:
    deaths = Notes()

    def work(n: int) -> int:
        if n in (40, 90):
            deaths.append(n)
            os._exit(1)
        return n

    result = engine.over(range(200), lambda s: s.map(work, name="work"))
    assert result.error is None
    assert sorted(result.collected()) == [n for n in range(200) if n not in (40, 90)]
    assert {(letter["rid"], letter["code"], letter["step"]) for letter in letters(result)} == {
        ("items/40", "E419", "work"), ("items/90", "E419", "work")
    }  # fmt: skip
    assert max(Counter(deaths).values()) <= 3
    assert len(result.restarts) <= len(deaths)


def test_a_sink_that_hangs_is_the_end(wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "RELEASE_S", 0.1)
    writing, gate = Notes(), Gate()

    class Hanging(Appending):
        def open(self, context: SinkContext) -> Writer:
            return HangingWriter(self)

    class HangingWriter(AppendingWriter):
        def write(self, records: Sequence[Any], rids: Sequence[str]) -> Sequence[Rejected]:
            writing.append(1)
            gate.wait()
            return ()

    pids = Notes()

    def work(n: int) -> int:
        pids.append(os.getpid())
        return n

    pipeline = sage.Pipeline("hangs")
    pipeline.read(Items(range(10))).map(work, parallelism=1).write(Hanging())
    job = engine.start(pipeline)
    wait_until(lambda: writing)
    os.kill(pids[0], signal.SIGKILL)
    result = job.wait(DEADLINE_S)
    gate.open()
    assert result.error is not None
    assert result.error.code == "E813"


def test_how_often() -> None:
    restarts = Restarts(2, 60.0)
    loss = HostError("E810", "host 1 is lost")
    assert [restarts.allow(loss, at_s) for at_s in (0.0, 10.0, 59.0)] == [True, True, False]
    assert "got 2 before: host 1 is lost; host 1 is lost" in str(restarts.refused(loss))
    assert restarts.allow(loss, 60.0)
    assert not restarts.allow(loss, 69.0)
    assert Restarts(0, 60.0).refused(loss) is loss


def test_a_book_that_follows_another_knows_what_is_finished() -> None:
    book = DurableBook(Control(), 100, lambda _: Progress())
    tickets = [book.open("p", first, first + 9, 10, 0.0) for first in range(0, 50, 10)]
    for index in (0, 2, 3):
        book.settle(tickets[index], 10)
    after = book.successor(Control())
    assert after.progress("p") == Progress(position=9, beyond=((20, 39),), records=30)
    assert (after.finished_before, after.open_records) == (30, 0)
    again = [after.open("p", first, first + 9, 10, 0.0) for first in (10, 40)]
    assert again[0].number not in {ticket.number for ticket in tickets}
    for ticket in again:
        after.settle(ticket, 10)
    after.exhausted("p")
    assert after.cut().partitions["p"] == Progress(position=49, beyond=(), records=50, complete=True)


def test_who_was_there_when_hosts_died_and_alone_at_last_is_the_culprit() -> None:
    suspects = Suspects()
    assert suspects.watch is None
    first, second = Try("work", "items/1"), Try("work", "items/2")
    suspects.note(1, "work/0", first)
    assert not suspects.died([1])
    suspects.note(1, "work/0", first)
    suspects.note(1, "other/0", second)
    assert not suspects.died([1])  # it may have been either
    suspects.note(1, "other/0", second)
    suspects.note(1, "other/0", None)
    suspects.note(1, "work/0", first)
    suspects.note(2, "work/1", second)
    assert suspects.died([1])
    assert suspects.watch == Watch(condemned=frozenset({first}), suspected=frozenset({second}))


class Brought(Reader):
    """Brings what it is told to."""

    def __init__(self) -> None:
        self.chunks = [Chunk([n, n + 1], range(n, n + 2)) for n in (0, 2, 4)]
        self.is_closed = False

    def read(self, max_records: int) -> Chunk | None:
        return self.chunks.pop(0) if self.chunks else None

    def close(self) -> None:
        self.is_closed = True


def test_what_was_read_once_is_read_again_until_it_is_finished() -> None:
    reader = Brought()
    retained = Retained(reader)
    first = retained.view(Progress())
    assert [first.read(2) for _ in range(2)] == [Chunk([0, 1], range(2)), Chunk([2, 3], range(2, 4))]
    retained.forget(Progress(position=1))
    second = retained.view(Progress(position=1, beyond=((3, 3),)))
    assert first.read(2) is None  # by a thread of the first attempt that wakes late
    again = second.read(2)
    assert again is not None
    assert again.records == [2]
    assert second.read(2) == Chunk([4, 5], range(4, 6))
    assert second.read(2) is None
    third = retained.view(Progress(position=3))
    assert third.read(2) is not None
    assert third.read(2) is None
    retained.close()
    assert reader.is_closed
