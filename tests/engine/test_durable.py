"""Runs with a job directory: what goes on where, what is refused, and what is left alone."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sage
from live import Gate
from patience import DEADLINE_S
from sage.connectors import Items, JsonLines, Parquet, Stdout, Text
from sage.errors import SageError
from sage.runtime.deadletters import DeadLetters
from sage.runtime.durability.audit import bill, verify
from sage.runtime.durability.row import Change, RowKind
from sage.runtime.durability.rows import Rows

JOB = Path("job")


class Cut(BaseException):
    """Ends the run in the middle, as nothing that is caught would."""


class Counting:
    """A call that costs money: each is noted. After `most` calls the run is cut off."""

    def __init__(self, most: int | None = None, result: Callable[[Any], Any] = lambda n: {"n": n}) -> None:
        Path("most").write_text(str(most or 1_000_000))  # not an attribute, which would make it another step
        self.result = result

    def __call__(self, record: Any) -> Any:
        with open("bill", "a") as file:
            file.write(f"{record}\n")
        if paid() > int(Path("most").read_text()):
            raise Cut
        return self.result(record)


class CountingAsync(Counting):
    async def __call__(self, record: Any) -> Any:
        await asyncio.sleep(0)
        return super().__call__(record)


def paid() -> int:
    return len(Path("bill").read_text().splitlines())


def run(pipeline: sage.Pipeline, **options: Any) -> sage.RunResult:
    return sage.start(pipeline, sage.RunOptions(job_dir=JOB, **options)).wait(DEADLINE_S)


def calling(operator: Any, records: Any = range(100), **options: Any) -> sage.Pipeline:
    pipeline = sage.Pipeline("calling")
    stream = pipeline.read(Items(records)).map(operator, name="call", durable=True, **options)
    stream.write(JsonLines("out.jsonl"), name="out")
    return pipeline


def outputs() -> list[Any]:
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", [Counting, CountingAsync])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_was_paid_is_not_paid_again(kind: type[Counting], concurrency: int) -> None:
    first = run(calling(kind(50), concurrency=concurrency))
    assert first.status is sage.Status.FAILED
    assert not Path("out.jsonl").exists()
    second = run(calling(kind(), concurrency=concurrency))
    assert second.error is None
    assert sorted(one["n"] for one in outputs()) == list(range(100))
    assert paid() <= 100 + concurrency
    (told,) = bill(JOB)
    assert told.paid == 100
    assert told.paid + told.wasted >= paid()


def test_lists_of_records_are_asked_for_only_what_is_missing() -> None:
    def call(records: list[int]) -> list[int]:
        with open("bill", "a") as file:
            file.writelines(f"{n}\n" for n in records)
        if 60 in records and not Path("cut").exists():
            Path("cut").touch()
            raise Cut
        return [n * 2 for n in records]

    assert run(calling(call, batch_size=10)).status is sage.Status.FAILED
    done = {int(line) for line in Path("bill").read_text().split()}
    assert run(calling(call, batch_size=10)).error is None
    assert sorted(outputs()) == [n * 2 for n in range(100)]
    assert paid() <= 100 + 10 + (100 - len(done))


def test_a_job_that_was_stopped_goes_on(wait_until: Callable[[Callable[[], object]], None]) -> None:
    job = sage.start(calling(CountingAsync(), range(100_000)), sage.RunOptions(job_dir=JOB))
    wait_until(lambda: Path("bill").exists() and paid() > 100)
    job.stop()
    assert job.wait(DEADLINE_S).status is sage.Status.CANCELLED
    before = paid()
    job = sage.start(calling(CountingAsync(), range(100_000)), sage.RunOptions(job_dir=JOB))
    wait_until(lambda: paid() > before + 100)
    job.stop()
    assert job.wait(DEADLINE_S).earlier > 0
    calls = Path("bill").read_text().split()
    assert len(calls) == len(set(calls)), "a clean stop costs nothing"


def test_reductions_and_lists_in_memory_go_on() -> None:
    def pipeline(most: int | None) -> sage.Pipeline:
        made = sage.Pipeline("sums")
        stream = made.read(Items(range(1000))).map(Counting(most, lambda n: n), durable=True)
        stream.key_by(lambda n: n % 3).aggregate(list, lambda some, n: [*some, n], name="gather").collect("lists")
        stream.key_by(lambda n: n % 2 == 0).count().collect("counts")
        stream.collect("all")
        return made

    assert run(pipeline(600)).status is sage.Status.FAILED
    result = run(pipeline(None))
    assert result.error is None
    assert sorted(result.collected("all")) == list(range(1000))
    assert sorted(result.collected("counts")) == [(False, 500), (True, 500)]
    assert {key: sorted(some) for key, some in result.collected("lists")} == {
        key: list(range(key, 1000, 3)) for key in range(3)
    }


def test_a_dead_letter_is_kept_once() -> None:
    def pipeline(most: int | None) -> sage.Pipeline:
        def check(n: int) -> int:
            if n % 10 == 0:
                raise ValueError(n)
            return n

        made = sage.Pipeline("letters")
        made.read(Items(range(100))).map(check, name="check").map(Counting(most), durable=True).write(
            JsonLines("out.jsonl")
        )
        return made

    assert run(pipeline(45)).status is sage.Status.FAILED
    result = run(pipeline(None))
    assert result.status is sage.Status.SUCCEEDED_WITH_DEAD_LETTERS
    rids = [json.loads(line)["rid"] for line in (JOB / "dead.jsonl").read_text().splitlines()]
    assert sorted(rids) == sorted(f"items/{n}" for n in range(0, 100, 10))


def test_large_results_are_files_that_are_checked() -> None:
    text = "x" * 100_000
    assert run(calling(Counting(3, lambda n: {"n": n, "text": text}), range(6))).status is sage.Status.FAILED
    assert len(list((JOB / "blobs").glob("*/*"))) == 3
    assert run(calling(Counting(None, lambda n: {"n": n, "text": text}), range(6))).error is None
    blob = next((JOB / "blobs").glob("*/*"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(SageError, match="E604 a journal is damaged"):
        verify(JOB)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"pipeline": "another"}, "E606 the job directory belongs to another pipeline"),
        ({"name": "renamed"}, "E606 step 'call' has changed .* --discard-step call"),
        ({"source": "b.txt"}, "E607 the input of the job has changed"),
    ],
    ids=["pipeline", "step", "input"],
)
def test_another_job_is_recognised(change: dict[str, str], refused: str) -> None:
    Path("a.txt").write_text("1\n2\n3\n4\n5\n6\n")
    Path("b.txt").write_text("7\n8\n")

    def made(most: int | None, pipeline: str = "calling", source: str = "a.txt", name: str = "call") -> sage.Pipeline:
        new = sage.Pipeline(pipeline)
        new.read(Text(source)).map(Counting(most, str), name=name, durable=True).write(
            JsonLines("out.jsonl"), name="out"
        )
        return new

    assert run(made(3)).status is sage.Status.FAILED
    with pytest.raises(SageError, match=refused):
        run(made(None, **change))
    assert run(made(None)).error is None
    assert outputs() == ["1", "2", "3", "4", "5", "6"]


def test_a_changed_operator_is_called_again() -> None:
    assert run(calling(Counting(50))).status is sage.Status.FAILED
    before = paid()
    result = run(calling(Counting(None, lambda n: {"n": n, "more": True})))
    assert result.error is None
    assert any(notice.startswith("W312 step ") for notice in result.notices)
    assert before + 50 <= paid() <= before + 100  # those that no checkpoint has seen written are paid again, too
    assert {one["n"] for one in outputs() if "more" in one} >= set(range(50, 100))


def test_a_finished_job_does_not_run_again() -> None:
    assert run(calling(Counting())).error is None
    with pytest.raises(SageError, match="E115 the job in this directory has finished"):
        run(calling(Counting()))
    assert paid() == 100


def test_two_runs_at_once_are_refused(wait_until: Callable[[Callable[[], object]], None]) -> None:
    job = sage.start(calling(CountingAsync(), range(100_000)), sage.RunOptions(job_dir=JOB))
    try:
        wait_until(lambda: Path("bill").exists())
        with pytest.raises(SageError, match=f"E603 .* pid {os.getpid()}"):
            run(calling(CountingAsync()))
    finally:
        job.abort()
        job.wait(DEADLINE_S)


def test_what_cannot_be_stored_ends_the_job() -> None:
    result = run(calling(Counting(None, lambda n: {"n": object()})))
    assert result.error is not None
    assert result.error.code == "E608"
    assert paid() == 1


def test_a_look_up_does_not_wait_for_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    commit = Rows._commit

    def slow(rows: Rows) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)
        commit(rows)

    path = Path("journal.db").absolute()
    Rows.create(path, [Change(RowKind.META, b"a", b"1")])
    rows = Rows(path)
    monkeypatch.setattr(Rows, "_commit", slow)
    with ThreadPoolExecutor(2) as threads:
        applied = threads.submit(rows.apply, [Change(RowKind.META, b"a", b"2")])
        assert begun.wait(DEADLINE_S)
        assert threads.submit(rows.get, RowKind.META, b"a").result(DEADLINE_S) == b"1"
        go_on.set()
        applied.result(DEADLINE_S)
    assert rows.get(RowKind.META, b"a") == b"2"
    rows.close()


def test_a_sink_that_promises_nothing_is_refused() -> None:
    class Careless(Stdout):
        safe = "at_commit"

    pipeline = sage.Pipeline("careless")
    pipeline.read(Items([1])).write(Careless())
    with pytest.raises(SageError, match="E226 the sink does not say when a record is safe"):
        run(pipeline)


def deadly(n: int) -> dict[str, int]:
    if n == 7:
        os._exit(9)
    return {"n": n}


def ends_well(processes: int) -> bool:
    """Whether a run in a process of its own comes to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if run(calling(deadly, range(20)), processes=processes).error is None else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("processes", [1, 2] if os.environ.get("SAGE_FAULTS") == "full" else [1])
def test_a_record_that_kills_its_process_is_a_dead_letter_after_three_deaths(processes: int) -> None:
    assert [ends_well(processes) for _ in range(4)] == [False, False, False, True]
    assert sorted(one["n"] for one in outputs()) == [n for n in range(20) if n != 7]
    (letter,) = (JOB / "dead.jsonl").read_text().splitlines()
    assert re.search(r"E419 the process died 3 times", letter)


def test_a_run_without_a_job_directory_loads_none_of_it() -> None:
    program = "import sage, sys; from sage.connectors import Items\n"
    program += "p = sage.Pipeline('p'); p.read(Items([1])).collect(); sage.run(p)\n"
    program += "print([name for name in sys.modules if 'durability' in name or name == 'sqlite3'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_parquet_output_goes_on() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    def pipeline(most: int | None) -> sage.Pipeline:
        made = sage.Pipeline("rows")
        wider = made.read(Items(range(100))).map(
            Counting(most, lambda n: {"n": n if n < 60 else n + 0.5}), durable=True
        )
        wider.write(Parquet("out.parquet"), name="out")
        return made

    assert run(pipeline(50)).status is sage.Status.FAILED
    assert not Path("out.parquet").exists()
    assert run(pipeline(None)).error is None
    rows = parquet.read_table("out.parquet").to_pylist()
    assert sorted(row["n"] for row in rows) == [*map(float, range(60)), *(n + 0.5 for n in range(60, 100))]
    assert sorted(path.name for path in Path().glob(".out*")) == []


def test_after_a_checkpoint_that_failed_there_is_none_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """What it took out of the lists and reductions must not be passed over by a later one."""

    def pipeline(gate: Gate) -> sage.Pipeline:
        def check(n: int) -> int:
            if n == 100:
                raise ValueError(n)
            if n == 200:
                gate.wait()
            return n

        made = sage.Pipeline("one-bad-moment")
        made.read(Items(range(400))).map(check).collect("all")
        return made

    failing = DeadLetters._synced

    def refuses(letters: DeadLetters, file: Any) -> None:
        monkeypatch.setattr(DeadLetters, "_synced", failing)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(DeadLetters, "_synced", refuses)
    gate = Gate()
    job = sage.start(pipeline(gate), sage.RunOptions(job_dir=JOB))
    wait_until(lambda: DeadLetters._synced is failing)
    gate.open()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.error and result.error.code) == (sage.Status.FAILED, "E650")
    again = run(pipeline(gate))
    assert sorted(again.collected("all")) == [n for n in range(400) if n != 100]


def test_a_mended_file_of_dead_letters_is_gone_on_with() -> None:
    def pipeline(most: int | None) -> sage.Pipeline:
        made = sage.Pipeline("letters")
        made.read(Items(range(4))).map(lambda n: 1 / (n - 1), name="divide").map(Counting(most), durable=True).collect()
        return made

    assert run(pipeline(1)).status is sage.Status.FAILED
    letters = JOB / "dead.jsonl"
    good = letters.read_bytes()
    letters.write_bytes(b"[1]\n")
    with pytest.raises(SageError, match=r"E653 .*dead.jsonl:1"):
        run(pipeline(None))
    letters.write_bytes(good + b"\n")
    assert run(pipeline(None)).status is sage.Status.SUCCEEDED_WITH_DEAD_LETTERS
