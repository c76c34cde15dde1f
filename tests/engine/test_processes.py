"""What is particular to runs with several processes: their loss, what cannot cross, who does how much."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import Op, expected, ops

import sage
from engines import ProcessEngine
from live import Gate, Notes
from patience import DEADLINE_S
from sage import Operator, OperatorContext, Status
from sage.connectors import Items, JsonLines
from sage.errors import HostError

Letters = Callable[[sage.RunResult], list[dict[str, Any]]]
engine = ProcessEngine()
few = settings(max_examples=4)


def pid_of(record: Any) -> int:
    return os.getpid()


def test_steps_that_work_are_away_and_all_else_is_at_home() -> None:
    async def awaited(record: Any) -> int:
        return os.getpid()

    pipeline = sage.Pipeline("places")
    source = pipeline.read(Items(lambda: iter([os.getpid()] * 2000)))
    source.map(lambda pid: (pid, os.getpid())).collect("away")
    source.map(awaited).collect("async")
    source.map(pid_of, concurrency=2, name="threads").collect("by-threads")
    source.key_by(pid_of, name="key").count().collect("keys")
    source.map(pid_of, parallelism=1, name="one").collect("by-one")
    result = engine.run(pipeline)
    home = os.getpid()
    assert {pid for pid, _ in result.collected("away")} == {home}
    away = {pid for _, pid in result.collected("away")}
    assert len(away) == 2
    assert home not in away
    assert set(result.collected("async")) == set(result.collected("by-threads")) == {home}
    assert result.collected("keys") == [(home, 2000)]
    assert len(set(result.collected("by-one")) & away) == 1


def test_a_free_process_takes_what_a_busy_one_has_not_begun() -> None:
    """The first record keeps its process busy until all others are done."""
    done = Notes()

    def work(n: int) -> tuple[int, int]:
        if n == 0:
            until = time.monotonic() + 10
            while done.counted() < 99 and time.monotonic() < until:
                time.sleep(0.001)
        else:
            done.append(n)
        return n, os.getpid()

    result = engine.over(range(100), lambda s: s.map(work))
    places = Counter(pid for _, pid in result.collected())
    assert sorted(places.values()) == [1, 99]


def test_order_by_holds_across_processes() -> None:
    def build(stream: sage.Stream) -> sage.Stream:
        return stream.map(lambda n: n).order_by(lambda n: n % 5).map(lambda n: (n, os.getpid())).filter(bool)

    found = engine.over(range(5000), build).collected()
    assert len({pid for _, pid in found}) == 2
    for key in range(5):
        numbers = [n for n, _ in found if n % 5 == key]
        assert numbers == list(range(key, 5000, 5))


@few
@given(chain=st.lists(ops, max_size=5), records=st.lists(st.integers(0, 300), max_size=200))
def test_random_pipelines(chain: list[Op], records: list[int]) -> None:
    def build(stream: sage.Stream) -> sage.Stream:
        for op in chain:
            stream = op.add_to(stream)
        return stream

    result = engine.over(records, build)
    wanted, dead = expected(chain, records)
    assert result.error is None, result.error
    assert Counter(result.collected()) == Counter(wanted)
    assert (result.account.dead_lettered, result.account.read) == (dead, len(records))


# --- lost hosts -------------------------------------------------------------------------------------------------------


class Staged(Operator):
    """Says which process it is in, and waits at a gate at one place of its life."""

    def __init__(self, place: str, pids: Notes, gate: Gate) -> None:
        self.place = place
        self.pids = pids
        self.gate = gate

    def _at(self, place: str) -> None:
        if place == self.place:
            self.pids.append(os.getpid())
            self.gate.wait()

    def open(self, context: OperatorContext) -> None:
        self._at("open")

    def __call__(self, record: int) -> int:
        if self.place == "idle":
            self.pids.append(os.getpid())
        self._at("busy")
        return record

    def close(self) -> None:
        self._at("close")


def staged(place: str, **options: Any) -> tuple[sage.Job, Notes, Gate]:
    """A run that stands still at `place`: opening, calling, waiting for records, or closing."""
    pids, gate = Notes(), Gate()

    def numbers() -> Iterator[int]:
        yield 1
        if place == "idle":
            gate.wait()
        yield 2

    pipeline = sage.Pipeline("lost")
    stream = pipeline.read(Items(numbers)).map(Staged(place, pids, gate), name="staged", parallelism=1)
    stream.write(JsonLines(Path("out.jsonl")))
    return engine.start(pipeline, **options), pids, gate


@pytest.mark.parametrize("place", ["open", "busy", "idle", "close"])
def test_a_run_begins_again_when_a_process_is_killed(place: str, wait_until: Any) -> None:
    job, pids, gate = staged(place)
    wait_until(lambda: pids)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: job.snapshot().restarts)
    gate.open()
    result = job.wait(DEADLINE_S)
    assert result.error is None
    assert result.restarts == (f"host 1 is lost: process {pids[0]} was killed by SIGKILL",)
    assert Path("out.jsonl").read_text() == "1\n2\n"
    assert result.account.read + result.earlier == 2


def test_a_killed_process_is_the_end_of_a_run_that_may_not_begin_again(
    wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_RESTARTS", "0")
    job, pids, gate = staged("busy")
    wait_until(lambda: pids)
    os.kill(pids[0], signal.SIGKILL)
    result = job.wait(DEADLINE_S)
    gate.open()
    assert result.status is Status.FAILED
    assert isinstance(result.error, HostError)
    assert f"host 1 is lost: process {pids[0]} was killed by SIGKILL at steps staged" in str(result.error)
    assert result.error.code == "E810"
    assert result.account.missing == 0
    assert not Path("out.jsonl").exists()


def test_a_process_that_exits_is_lost_too() -> None:
    result = engine.over(range(10), lambda s: s.map(lambda n: os._exit(3)), restarts=1)
    assert "ended with exit code 3" in str(result.error)
    assert "got 1 before: host" in str(result.error)
    assert (result.status, result.account.missing) == (Status.FAILED, 0)


def test_a_killed_process_whose_child_lives_on(wait_until: Any) -> None:
    """The child has inherited everything that the system would otherwise close."""
    pids = Notes()

    def spawn(record: int) -> int:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        pids.append(child)
        os.kill(os.getpid(), signal.SIGKILL)
        return record

    result = engine.over([1], lambda s: s.map(spawn, parallelism=1), restarts=0)
    os.kill(pids[0], signal.SIGKILL)
    assert "SIGKILL" in str(result.error)


@pytest.mark.parametrize("place", ["open", "busy"])
def test_an_abort_ends_a_process_that_stands_still(place: str, wait_until: Any) -> None:
    job, pids, gate = staged(place)
    wait_until(lambda: pids)
    os.kill(pids[0], signal.SIGSTOP)
    job.abort()
    result = job.wait(DEADLINE_S)
    gate.open()
    assert (result.status, result.account.missing, result.error) == (Status.CANCELLED, 0, None)


def test_a_stop_drains(wait_until: Any) -> None:
    pids, gate = Notes(), Gate()

    def wait(n: int) -> int:
        pids.append(n)
        gate.wait()
        return n

    def numbers() -> Iterator[int]:
        n = 0
        while True:
            yield n
            n += 1

    pipeline = sage.Pipeline("stopped")
    pipeline.read(Items(numbers)).map(wait).collect()
    job = engine.start(pipeline)
    wait_until(lambda: len(pids) == 2)
    job.stop()
    gate.open()
    result = job.wait(DEADLINE_S)
    assert result.status is Status.CANCELLED
    assert result.account.read == result.account.written > 2
    assert result.account.unfinished == 0


# --- what cannot cross ------------------------------------------------------------------------------------------------


class Locked:
    """Cannot be pickled."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.lock = threading.Lock()


def test_a_record_that_cannot_be_pickled_is_a_dead_letter(letters: Letters) -> None:
    def build(stream: sage.Stream) -> sage.Stream:
        return stream.map(lambda n: Locked(n) if n % 10 == 0 else n, name="make")

    result = engine.over(range(100), build)
    assert sorted(result.collected()) == [n for n in range(100) if n % 10]
    found = letters(result)
    assert {(letter["code"], letter["step"], letter["replayable"]) for letter in found} == {("E417", "collect", False)}
    assert sorted(letter["rid"] for letter in found) == sorted(f"items/{n}" for n in range(0, 100, 10))


def test_a_record_of_a_source_that_cannot_be_pickled(letters: Letters) -> None:
    result = engine.over(lambda: iter([1, Locked(2), 3]), lambda s: s.map(lambda n: n, name="work"))
    assert sorted(result.collected()) == [1, 3]
    assert [(letter["code"], letter["step"]) for letter in letters(result)] == [("E417", "work")]


def test_a_record_that_cannot_be_pickled_ends_a_run_that_wants_no_failures() -> None:
    result = engine.over(lambda: iter([Locked(1)]), lambda s: s.map(lambda n: n, name="work", on_error="fail"))
    assert result.status is Status.FAILED
    assert "E417" in str(result.error)
    assert "step 'work', record" in str(result.error)


class OneWay:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, (1,)


def _refuse(_: int) -> None:
    raise ValueError("not in this process")


def test_records_that_cannot_be_unpickled_end_the_run() -> None:
    result = engine.over(lambda: iter([OneWay()]), lambda s: s.map(lambda n: n, name="work"))
    assert result.status is Status.FAILED
    assert "E418" in str(result.error)
    assert "ValueError: not in this process" in str(result.error)
    assert "step 'work'" in str(result.error)


def test_an_operator_that_cannot_be_sent_is_found_before_anything_is_read() -> None:
    lock = threading.Lock()
    read = Notes()

    def build(stream: sage.Stream) -> sage.Stream:
        return stream.map(lambda n: (n, lock.locked()), name="locks")

    with pytest.raises(sage.PipelineError, match=r"E215 .*step 'locks'.*lock"):
        engine.over(lambda: iter([read.append(1)]), build)
    assert not read


class Stubborn(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = threading.Lock()


def test_an_error_that_cannot_be_pickled_arrives_as_text() -> None:
    def fail(n: int) -> int:
        raise Stubborn("so it was", "and so")

    class Opening(Operator):
        def __call__(self, n: int) -> int:
            return n

        def open(self, context: OperatorContext) -> None:
            fail(1)

    result = engine.over([1], lambda s: s.map(Opening()))
    assert result.status is Status.FAILED
    assert "Stubborn: so it was" in str(result.error)


def test_an_error_brings_its_cause_and_traceback() -> None:
    def fail(n: int) -> int:
        raise ValueError("the reason")

    result = engine.over([1], lambda s: s.map(fail, on_error="fail"))
    assert isinstance(result.error, sage.RecordError)
    assert isinstance(result.error.__cause__, ValueError)
    assert "in fail" in "".join(result.error.__notes__)


@pytest.mark.parametrize("processes", [0, -1, 65, 1.5, True, "2"])
def test_a_number_of_processes_that_is_not_possible(processes: Any) -> None:
    pipeline = sage.Pipeline("none")
    pipeline.read(Items([1])).collect()
    with pytest.raises(sage.SageError, match="E111"):
        sage.run(pipeline, processes=processes)


def test_large_records(tmp_path: Path) -> None:
    blocks = [bytes([n]) * (1 << 20) for n in range(30)]
    result = engine.over(blocks, lambda s: s.map(lambda block: block + b"x"))
    assert sorted(result.collected()) == [block + b"x" for block in blocks]


def test_figures_of_other_processes_are_seen_while_they_work(wait_until: Any) -> None:
    gate = Gate()

    def work(n: int) -> int:
        if n == 50:
            gate.wait()
        return n

    pipeline = sage.Pipeline("figures")
    pipeline.read(Items(range(51))).map(work, name="work", parallelism=1).collect()
    job = engine.start(pipeline)
    wait_until(lambda: next(s for s in job.snapshot().steps if s.name == "work").received == 51)
    wait_until(lambda: job.snapshot().account.written >= 10)
    gate.open()
    result = job.wait(DEADLINE_S)
    step = next(s for s in result.steps if s.name == "work")
    assert (step.received, step.emitted, step.in_flight, step.waiting, step.slots) == (51, 51, 0, 0, 1)


# --- programs ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import itertools, os, sys, time
import sage
from sage.connectors import Items

class Word:
    def __init__(self, n): self.n = n
    def twice(self): return Word(2 * self.n)

def make(n):
    if n == 0: print("working", os.getpid(), flush=True)
    return Word(n)

def rest(word):
    time.sleep(REST)
    return word

pipeline = sage.Pipeline("script")
pipeline.read(Items(range(1000))).map(make).map(rest).map(Word.twice).collect()
result = sage.run(pipeline, processes=2)
assert all(type(word) is Word for word in result.collected())
print(sum(word.n for word in result.collected()))
"""


def test_a_script_without_a_guard_whose_classes_are_its_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("REST", "0"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "999000"


def test_no_process_survives_its_driver(tmp_path: Path, wait_until: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("REST", "60"))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline().split()[1])
        driver.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_the_terminal(tmp_path: Path, times: int) -> None:
    """The terminal sends it to all processes; only the driver acts on it."""
    script = tmp_path / "script.py"
    program = SCRIPT.replace("REST", "0.005" if times == 1 else "60").replace(", processes=2", "")
    program = program.replace("range(1000)", "itertools.count()")
    script.write_text(program)
    command = [sys.executable, "-m", "sage", "run", "--processes", "2", "--json", "--quiet", str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        assert driver.stderr is not None
        assert driver.stderr.readline().startswith("working")  # what a step prints is not in the JSON
        os.killpg(driver.pid, signal.SIGINT)
        if times == 2:  # sent at once, two would be taken for one
            while not driver.stderr.readline().startswith("stopping"):
                pass
            os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 130, err
    assert '"status": "CANCELLED"' in out
    assert ('unfinished": 0' in out) == (times == 1)
