"""Runs while they run: looked at, held back, stopped, aborted, many at once."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

import sage
from engines import Engine
from live import Gate, Live, Tally
from patience import DEADLINE_S
from sage import Status
from sage.connectors import Items, JsonLines
from sage.runtime.control import Aborted
from sage.runtime.processes import ProcessEngine


class Record:
    """Something that can be counted while it is alive."""

    alive: ClassVar["weakref.WeakSet[Record]"] = weakref.WeakSet()

    def __init__(self, n: int) -> None:
        self.n = n
        Record.alive.add(self)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_slow_step_holds_its_source_back(engine: Engine, is_async: bool, wait_until: Any) -> None:
    gate = Gate()
    tally = Tally()

    def slow(record: Record) -> int:
        tally.enter()
        gate.wait()
        tally.leave()
        return record.n

    async def slow_async(record: Record) -> int:
        tally.enter()
        await asyncio.to_thread(gate.wait)
        tally.leave()
        return record.n

    operator = slow_async if is_async else slow
    pipeline = sage.Pipeline("slow")
    source = Items(lambda: map(Record, range(5000)))
    pipeline.read(source).map(operator, concurrency=8).collect()
    job = engine.start(pipeline)
    wait_until(lambda: tally.now == 8)
    wait_until(lambda: _is_steady(job))
    snapshot = job.snapshot()
    alive = len(Record.alive)
    gate.open()
    result = job.wait(DEADLINE_S)
    assert sorted(result.collected()) == list(range(5000))
    assert snapshot.account.read <= 200
    assert alive <= 300
    assert tally.most == 8
    wait_until(lambda: gc.collect() >= 0 and len(Record.alive) <= 1)


def _is_steady(job: sage.Job) -> bool:
    """Nothing more is read, although time goes by."""
    before = job.snapshot().account.read
    for _ in range(200):
        if job.snapshot().account.read != before:
            return False
    return before > 0


@pytest.mark.one_process("all these steps are one task where each has an instance in every process")
def test_records_that_are_open_are_bounded(engine: Engine, wait_until: Any) -> None:
    """Quick steps fill the queues as far as they may, and no further."""
    gate = Gate()

    def last(n: int) -> int:
        gate.wait()
        return n

    pipeline = sage.Pipeline("bounded")
    stream = pipeline.read(Items(range(100_000)))
    for _ in range(20):
        stream = stream.map(lambda n: n, parallelism=2).map(lambda n: n)
    stream.map(last, parallelism=2).collect()
    job = engine.start(pipeline)
    wait_until(lambda: job.snapshot().account.read > 5_000)
    wait_until(lambda: _is_steady(job))
    assert job.snapshot().account.read <= 10_000
    job.stop()
    gate.open()
    assert job.wait(DEADLINE_S).account.missing == 0


def test_a_snapshot_of_a_run(engine: Engine, wait_until: Any) -> None:
    gate = Gate()

    async def ask(n: int) -> int:
        await asyncio.to_thread(gate.wait)
        return n

    pipeline = sage.Pipeline("looked-at")
    pipeline.read(Items(range(10)), name="numbers").map(ask, concurrency=3).collect("answers")
    job = engine.start(pipeline)
    wait_until(lambda: job.snapshot().account.read == 10)
    wait_until(lambda: next(s for s in job.snapshot().steps if s.name == "ask").in_flight == 3)
    snapshot = job.snapshot()
    assert (snapshot.pipeline, snapshot.status, snapshot.stopping) == ("looked-at", Status.RUNNING, False)
    assert snapshot.account.unfinished == 10
    assert [step.name for step in snapshot.steps] == ["numbers", "ask", "answers"]
    assert (snapshot.steps[1].waiting, snapshot.steps[1].slots) == (7, 3)
    assert snapshot.stalled is None
    with pytest.raises(TimeoutError, match="looked-at"):
        job.wait(0)
    gate.open()
    result = job.wait(DEADLINE_S)
    after = job.snapshot()
    assert (after.status, after.account) == (Status.SUCCEEDED, result.account)
    assert after.bottleneck == "ask"
    assert after.elapsed_s == result.elapsed_s
    assert [step.in_flight for step in after.steps] == [0, 0, 0]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stop_finishes_what_is_in_flight(engine: Engine, is_async: bool, wait_until: Any, tmp_path: Path) -> None:
    tally, gate = Tally(), Gate()

    def operator(n: int) -> int:
        tally.enter()
        gate.wait()
        return n

    async def operator_async(n: int) -> int:
        tally.enter()
        await asyncio.to_thread(gate.wait)
        return n

    pipeline = sage.Pipeline("stopped")
    stream = pipeline.read(Items(count)).map(operator_async if is_async else operator, concurrency=4)
    stream.write(JsonLines(tmp_path / "out.jsonl"))
    job = engine.start(pipeline)
    wait_until(lambda: tally.now == 4)
    job.stop()
    assert job.snapshot().stopping
    gate.open()
    result = job.wait(DEADLINE_S)
    assert result.status is Status.CANCELLED
    assert (result.error, result.account.missing, result.account.unfinished) == (None, 0, 0)
    assert result.account.written == result.account.read >= 4
    assert not (tmp_path / "out.jsonl").exists()
    (aside,) = result.put_aside
    assert len(Path(aside).read_text().split()) == result.account.written


def test_a_stop_before_anything_was_read_and_after_the_end(engine: Engine) -> None:
    pipeline = sage.Pipeline("stopped")
    pipeline.read(Items(count)).collect()
    job = engine.start(pipeline)
    job.stop()
    job.stop()
    assert job.wait(DEADLINE_S).status is Status.CANCELLED
    pipeline = sage.Pipeline("ended")
    pipeline.read(Items([1])).collect()
    job = engine.start(pipeline)
    result = job.wait(DEADLINE_S)
    job.stop()
    job.abort()
    assert job.wait(0) is result
    assert job.snapshot().status is Status.SUCCEEDED


@pytest.mark.parametrize("is_async", [False, True])
def test_an_abort_does_not_wait_for_what_is_stuck(
    engine: Engine, is_async: bool, wait_until: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.runtime.attempt.ABORT_GRACE_S", 0.1)
    tally, gate = Tally(), Gate()

    def stuck(n: int) -> int:
        tally.enter()
        gate.wait()
        return n

    async def stuck_async(n: int) -> int:
        tally.enter()
        await asyncio.Event().wait()
        return n

    pipeline = sage.Pipeline("aborted")
    stream = pipeline.read(Items(count)).map(stuck_async if is_async else stuck, concurrency=3)
    stream.map(lambda n: n, parallelism=2).write(JsonLines(tmp_path / "out.jsonl"))
    job = engine.start(pipeline)
    wait_until(lambda: tally.now == 3)
    job.abort()
    result = job.wait(DEADLINE_S)
    gate.open()
    assert (result.status, result.account.written) == (Status.CANCELLED, 0)
    assert result.account.missing == 0
    assert result.account.unfinished == result.account.read > 0
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.one_process("all these steps are one task where each has an instance in every process")
def test_an_abort_while_the_source_waits_for_room(engine: Engine, wait_until: Any) -> None:
    gate = Gate()

    def slow(n: int) -> int:
        gate.wait()
        return n

    pipeline = sage.Pipeline("full")
    stream = pipeline.read(Items(range(100_000)))
    for _ in range(20):
        stream = stream.map(lambda n: n, parallelism=2)
        stream = stream.map(lambda n: n)
    stream.map(slow, parallelism=2).collect()
    job = engine.start(pipeline)
    wait_until(lambda: job.snapshot().account.read > 5_000)
    wait_until(lambda: _is_steady(job))
    job.abort()
    gate.open()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.missing) == (Status.CANCELLED, 0)


def test_an_abort_while_operators_open(engine: Engine, wait_until: Any) -> None:
    gate, tally = Gate(), Tally()

    class Slow:
        def open(self, context: Any) -> None:
            tally.enter()
            gate.wait()

        def __call__(self, n: int) -> int:
            return n

    pipeline = sage.Pipeline("opening")
    pipeline.read(Items([1])).map(Slow(), parallelism=2).map(awaited).collect()
    job = engine.start(pipeline)
    wait_until(lambda: tally.now == 2)
    job.abort()
    gate.open()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.read) == (Status.CANCELLED, 0)


async def awaited(n: int) -> int:
    return n


def test_many_runs_at_once(engine: Engine) -> None:
    results: dict[int, list[int]] = {}

    def one(number: int) -> None:
        pipeline = sage.Pipeline(f"run-{number}")
        stream = pipeline.read(Items(range(number * 100, number * 100 + 100))).map(awaited, concurrency=4)
        stream.map(lambda n: n + 1, concurrency=2).key_by(lambda n: n).count(parallelism=2).collect()
        results[number] = sorted(key for key, _ in engine.run(pipeline).collected())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: list(range(n * 100 + 1, n * 100 + 101)) for n in range(12)}


def test_one_pipeline_run_by_several_threads(engine: Engine) -> None:
    pipeline = sage.Pipeline("shared")
    pipeline.read(Items(range(500))).map(awaited).map(lambda n: n * 2, concurrency=2).collect()
    jobs = [engine.start(pipeline, dead_letters=Path(f"{n}.jsonl")) for n in range(4)]
    for job in jobs:
        assert sorted(job.wait(DEADLINE_S).collected()) == list(range(0, 1000, 2))


def test_results_leave_before_the_input_has_ended(engine: Engine) -> None:
    """A source that waits for the result of its first record before it brings the second."""
    came = Came()

    def items() -> Iterator[int]:
        yield 0
        came.wait_for(0)
        yield 1

    def watch(n: int) -> int:
        came.put(n)
        return n

    result = engine.over(items, lambda s: s.map(awaited).map(list, batch_size=16).map(watch))
    assert sorted(result.collected()) == [0, 1]


class Came(Live):
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[int] = set()

    def put(self, n: int) -> None:
        with self._changed:
            self._seen.add(n)
            self._changed.notify_all()

    def wait_for(self, n: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: n in self._seen, DEADLINE_S)


PROGRAM = """
import sys, threading
import sage
from sage.connectors import Items, JsonLines
from sage.runtime.control import Aborted
from sage.runtime.processes import ProcessEngine

def operator(n):
    print(n, flush=True)
    {wait}
    return n

def items():
    n = 0
    while True:
        yield n
        n += 1

pipeline = sage.Pipeline("interrupted")
pipeline.read(Items(items)).map(operator, concurrency=2).write(JsonLines("out.jsonl"))
try:
    sage.run(pipeline)
except KeyboardInterrupt as stopped:
    print("STOPPED", stopped, flush=True)
    sys.exit(130)
"""


def test_ctrl_c_once_finishes_what_is_in_flight(tmp_path: Path) -> None:
    code, output = _interrupted("threading.Event().wait(0.01)", tmp_path, times=1)
    assert code == 130
    assert "STOPPED stopped: read" in output
    assert "unfinished" not in output
    assert not (tmp_path / "out.jsonl").exists()
    lines = (tmp_path / "out.jsonl.partial").read_text().split()
    assert f"written {len(lines):,}" in output


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    code, output = _interrupted("threading.Event().wait()", tmp_path, times=2)
    assert code == 130
    assert "unfinished" in output
    assert not (tmp_path / "out.jsonl").exists()


def _interrupted(wait: str, folder: Path, times: int) -> tuple[int, str]:
    program = folder / "program.py"
    program.write_text(PATIENCE + PROGRAM.format(wait=wait))
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            output = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            while times == 2 and "STOPPING" not in output:
                output += process.stdout.readline()
            if times == 2:
                process.send_signal(signal.SIGINT)
            output += process.stdout.read()
            return process.wait(DEADLINE_S), output
        finally:
            process.kill()


PATIENCE = """
from sage.runtime import attempt, job

attempt.ABORT_GRACE_S = 0.1
stop = job.Job.stop

def told(self):
    stop(self)
    print("STOPPING", flush=True)

job.Job.stop = told
"""


def test_an_abort_while_hosts_start_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """`interrupts` aborts at the second Ctrl-C; then an engine that waits for hosts gives up."""

    def give_up(*_: Any) -> Any:
        raise Aborted

    monkeypatch.setattr(ProcessEngine, "place", give_up)
    pipeline = sage.Pipeline("aborted")
    pipeline.read(Items(range(10))).map(lambda n: n).collect()
    with pytest.raises(KeyboardInterrupt):
        sage.start(pipeline, sage.RunOptions(processes=2))
