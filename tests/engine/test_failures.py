"""Records that fail: tried again, parked, replaced, made dead letters, or the end of the run."""

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sage
from engines import Engine, once
from live import Gate, Live, Notes
from patience import DEADLINE_S
from sage import EndpointBusy, Status
from sage.connectors import Items
from sage.errors import PipelineError, RecordError, StepTimeout
from sage.runtime.deadline import MOST_LEFT_BEHIND, Deadline

Letters = Callable[[sage.RunResult], list[dict[str, Any]]]


class Flaky(Live):
    """Fails the first `times` calls for each record."""

    def __init__(self, times: int, error: Callable[[Any], BaseException]) -> None:
        self.times = times
        self.error = error
        self.calls: dict[Any, int] = {}
        self.lock = threading.Lock()

    def __call__(self, record: Any) -> Any:
        with self.lock:
            self.calls[record] = self.calls.get(record, 0) + 1
            if self.calls[record] <= self.times:
                raise self.error(record)
        return record


def as_operator(flaky: Flaky, form: str) -> tuple[Any, dict[str, Any]]:
    """`flaky` as an operator of a map: plain, asynchronous, with a time limit, on threads, or for batches."""

    def plain(record: Any) -> Any:
        return flaky(record)

    async def asynchronous(record: Any) -> Any:
        return flaky(record)

    def batch(records: list[Any]) -> list[Any]:
        return [flaky(record) for record in records]

    async def async_batch(records: list[Any]) -> list[Any]:
        return [flaky(record) for record in records]

    return {
        "plain": (plain, {}),
        "async": (asynchronous, {}),
        "timed": (plain, {"timeout_s": 30}),
        "threads": (plain, {"concurrency": 4}),
        "batch": (batch, {"batch_size": 1}),
        "async batch": (async_batch, {"batch_size": 1}),
    }[form]


forms = pytest.mark.parametrize("form", ["plain", "timed", "batch", *once("async", "threads", "async batch")])
"""Calls that overlap stay in the user's process on every engine."""
(ASYNC,) = once(True)


@forms
def test_retries_that_succeed(engine: Engine, form: str) -> None:
    flaky = Flaky(2, lambda _: ValueError("not yet"))
    operator, options = as_operator(flaky, form)
    result = engine.over([1, 2, 3], lambda s: s.map(operator, retries=2, **options))
    assert sorted(result.collected()) == [1, 2, 3]
    assert result.status is Status.SUCCEEDED
    assert set(flaky.calls.values()) == {3}
    assert next(step.retries for step in result.steps if step.kind == "map") == 6


@forms
def test_retries_that_are_used_up(engine: Engine, form: str, letters: Letters) -> None:
    flaky = Flaky(99, lambda _: ValueError("never"))
    operator, options = as_operator(flaky, form)
    result = engine.over([1, 2], lambda s: s.map(operator, name="ask", retries=2, **options))
    assert result.status is Status.SUCCEEDED_WITH_DEAD_LETTERS
    assert set(flaky.calls.values()) == {3}
    for letter in letters(result):
        assert letter["attempts"] == 3
        assert letter["step"] == "ask"
        assert letter["reason"] == "ValueError: never"
        assert "in __call__" in letter["traceback"]


@forms
def test_a_record_that_is_wrong_is_not_tried_again(engine: Engine, form: str) -> None:
    flaky = Flaky(99, lambda _: RecordError("E499", "wrong for good"))
    operator, options = as_operator(flaky, form)
    assert engine.over([1], lambda s: s.map(operator, retries=5, **options)).account.dead_lettered == 1
    assert flaky.calls == {1: 1}


@forms
def test_a_busy_endpoint_burns_no_attempt(engine: Engine, form: str) -> None:
    waits = {"at once": 0.0, "soon": 1e-3, "before": -5.0, "nonsense": float("nan")}
    flaky = Flaky(3, lambda record: EndpointBusy("E720", "too many", retry_after_s=waits[record]))
    operator, options = as_operator(flaky, form)
    result = engine.over(list(waits), lambda s: s.map(operator, **options))
    assert sorted(result.collected()) == sorted(waits)
    assert set(flaky.calls.values()) == {4}
    (step,) = [step for step in result.steps if step.kind == "map"]
    assert (step.retries, step.parked) == (0, 0)


@forms
@pytest.mark.parametrize("retry_after_s", [1e9, *once(math.inf, 1e99, None)])
def test_a_parked_record_is_left_unfinished_by_a_stop(
    engine: Engine, form: str, retry_after_s: float | None, wait_until: Any
) -> None:
    flaky = Flaky(10**9, lambda _: EndpointBusy("E720", "too many", retry_after_s=retry_after_s))
    operator, options = as_operator(flaky, form)
    pipeline = sage.Pipeline("parked")
    pipeline.read(Items([1])).map(operator, name="ask", **options).collect()
    job = engine.start(pipeline)
    wait_until(lambda: job.snapshot().stalled)
    assert "E720 too many" in str(job.snapshot().stalled)
    job.stop()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.unfinished, result.account.missing) == (Status.CANCELLED, 1, 0)
    assert job.snapshot().account == result.account


def test_a_record_over_its_time_is_given_up_and_its_neighbours_go_on(engine: Engine, letters: Letters) -> None:
    stuck = Gate()

    def operator(x: int) -> int:
        if x == 2:
            stuck.wait()
        return x

    try:
        result = engine.over([1, 2, 3], lambda s: s.map(operator, timeout_s=0.25, retries=3))
        assert sorted(result.collected()) == [1, 3]
        (letter,) = letters(result)
        assert (letter["code"], letter["input"]) == ("E410", 2)
    finally:
        stuck.open()


def test_threads_that_were_left_behind_and_have_ended_do_not_count(
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    late, begun = threading.Event(), []

    def call(number: int) -> None:
        begun.append(number)
        late.wait()

    def is_over() -> bool:
        return not any(thread.name == "sage-deadline-late" for thread in threading.enumerate())

    deadline = Deadline(call, 0.001, "late")
    for most in (20, 20, MOST_LEFT_BEHIND):
        while len(begun) < most:  # a thread may not even begin in that time
            with pytest.raises(StepTimeout):
                deadline(1)
        if most < MOST_LEFT_BEHIND:
            late.set()
            wait_until(is_over)
            late.clear()
            begun.clear()

    def call_until_given_up() -> None:
        while True:
            with suppress(StepTimeout):
                deadline(1)

    with pytest.raises(PipelineError, match="E231 33 calls"):
        call_until_given_up()
    late.set()
    wait_until(is_over)


def test_an_async_record_over_its_time_is_cancelled(engine: Engine, letters: Letters) -> None:
    import asyncio

    cancelled: list[int] = []

    async def operator(x: int) -> int:
        if x == 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(x)
                raise
        return x

    result = engine.over([1, 2, 3], lambda s: s.map(operator, timeout_s=0.05, retries=1))
    assert sorted(result.collected()) == [1, 3]
    assert cancelled == [2, 2]
    (letter,) = letters(result)
    assert (letter["code"], letter["attempts"]) == ("E410", 2)


@pytest.mark.parametrize("is_async", [False, ASYNC])
def test_a_timeout_of_the_operators_own_is_an_ordinary_failure(
    engine: Engine, letters: Letters, is_async: bool
) -> None:
    def operator(x: int) -> int:
        raise TimeoutError("mine")

    async def operator_async(x: int) -> int:
        raise TimeoutError("mine")

    result = engine.over([1], lambda s: s.map(operator_async if is_async else operator, timeout_s=30))
    assert [letter["reason"] for letter in letters(result)] == ["TimeoutError: mine"]


@forms
def test_on_error_fail_ends_the_run(engine: Engine, form: str) -> None:
    operator, options = as_operator(Flaky(99, lambda _: ValueError("broken")), form)
    result = engine.over([1], lambda s: s.map(operator, name="ask", on_error="fail", **options))
    assert result.status is Status.FAILED
    assert "ValueError: broken" in str(result.error)
    assert "step 'ask', record items/0" in str(result.error)
    assert result.account.unfinished == 1


@forms
def test_on_error_replaces_the_record(engine: Engine, form: str) -> None:
    operator, options = as_operator(Flaky(99, lambda _: ValueError("broken")), form)
    result = engine.over([1, 2], lambda s: s.map(operator, on_error=lambda x, e: f"{x}: {e}", **options))
    assert sorted(result.collected()) == ["1: broken", "2: broken"]
    assert result.status is Status.SUCCEEDED


@forms
def test_on_error_that_returns_none_makes_a_dead_letter(engine: Engine, form: str) -> None:
    operator, options = as_operator(Flaky(99, lambda _: ValueError("broken")), form)
    result = engine.over([1, 2], lambda s: s.map(operator, on_error=lambda x, e: None, **options))
    assert (result.collected(), result.account.dead_lettered) == ([], 2)


@forms
def test_on_error_that_fails_makes_a_dead_letter_with_both_reasons(engine: Engine, form: str, letters: Letters) -> None:
    def on_error(record: Any, error: Exception) -> Any:
        raise KeyError("second")

    operator, options = as_operator(Flaky(99, lambda _: ValueError("first")), form)
    result = engine.over([1], lambda s: s.map(operator, on_error=on_error, **options))
    (letter,) = letters(result)
    assert letter["reason"] == "KeyError: 'second'"
    assert "first" in letter["traceback"]


@pytest.mark.parametrize("is_async", [False, ASYNC])
@pytest.mark.parametrize(
    ("replacement", "expected"), [({"failed": 1}, [{"failed": 1}]), ("text", ["text"]), ([7, 8], [7, 8])]
)
@pytest.mark.parametrize("failing", ["raises", "returns a number"])
def test_a_replacement_in_flat_map(
    engine: Engine, is_async: bool, replacement: Any, expected: list[Any], failing: str
) -> None:
    seen = Notes()

    def operator(x: int) -> Any:
        if failing == "raises":
            raise ValueError("broken")
        return 7

    async def operator_async(x: int) -> Any:
        return operator(x)

    def on_error(record: Any, error: Exception) -> Any:
        seen.append(str(error))
        return replacement

    result = engine.over([1], lambda s: s.flat_map(operator_async if is_async else operator, on_error=on_error))
    assert result.collected() == expected
    assert len(seen) == 1


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this error has no text")

    __repr__ = __str__


class CannotBePickled(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


STRANGE = [
    StopIteration("stop"),
    StopAsyncIteration("stop"),
    NoText(),
    CannotBePickled(),
    ValueError("lone surrogate \ud800, NUL \0, escape \x1b[31m, new\nline"),
    RecordError("E499", "lone surrogate \ud800"),
    ValueError("x" * 1_000_000),
    RecursionError("deep"),
    MemoryError(),
    EOFError(),
    OSError(5, "I/O error"),
    ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
]


@forms
def test_strange_exceptions_are_outcomes_of_their_records(engine: Engine, form: str, letters: Letters) -> None:
    operator, options = as_operator(Flaky(1, STRANGE.__getitem__), form)
    result = engine.over(range(len(STRANGE)), lambda s: s.map(operator, **options))
    assert result.status is Status.SUCCEEDED_WITH_DEAD_LETTERS
    found = letters(result)
    assert sorted(letter["input"] for letter in found) == list(range(len(STRANGE)))
    for letter in found:
        assert "\n" not in letter["reason"]
        assert len(letter["reason"]) <= 500
        assert len(letter["traceback"]) <= 8000


@forms
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit("exit")])
def test_an_operator_that_wants_to_end_the_process_ends_the_run(
    engine: Engine, form: str, error: BaseException
) -> None:
    operator, options = as_operator(Flaky(1, lambda _: error), form)
    result = engine.over([1], lambda s: s.map(operator, **options))
    assert result.status is Status.FAILED
    assert type(error).__name__ in str(result.error)
    assert result.account.unfinished == 1


@forms
def test_none_is_no_result(engine: Engine, form: str, letters: Letters) -> None:
    def nothing(x: Any) -> Any:
        return [None] if isinstance(x, list) else None

    async def nothing_async(x: Any) -> Any:
        return nothing(x)

    _, options = as_operator(Flaky(0, lambda _: ValueError()), form)
    operator = nothing_async if "async" in form else nothing
    result = engine.over([1], lambda s: s.map(operator, retries=3, **options))
    (letter,) = letters(result)
    assert (letter["code"], letter["attempts"]) == ("E412", 1)


def test_more_dead_letters_than_allowed(engine: Engine, letters: Letters) -> None:
    result = engine.over(range(10), lambda s: s.map(lambda x: 1 // (x % 2)), max_dead_letters=3)
    assert result.status is Status.FAILED
    assert "E652 more than 3 dead letters" in str(result.error)
    assert "ZeroDivisionError" in str(result.error)
    assert len(letters(result)) == result.account.dead_lettered
    assert result.account.dead_lettered == 4 or engine.processes > 1  # others may fail before the news has gone round


def test_as_many_dead_letters_as_allowed(engine: Engine) -> None:
    result = engine.over(range(10), lambda s: s.map(lambda x: 1 // (x % 2)), max_dead_letters=5)
    assert result.status is Status.SUCCEEDED_WITH_DEAD_LETTERS


def test_the_dead_letters_of_the_run_before_are_kept(engine: Engine, letters: Letters) -> None:
    def failing(name: str) -> sage.RunResult:
        return engine.over([name], lambda s: s.map(lambda x: x / 2))

    failing("first")
    second = failing("second")
    assert [letter["input"] for letter in letters(second)] == ["second"]
    assert b'"first"' in Path("test.dead.jsonl.old").read_bytes()
    third = engine.over([4], lambda s: s.map(lambda x: x / 2))
    assert third.dead_letters is None
    assert not Path("test.dead.jsonl").exists()
    assert b'"second"' in Path("test.dead.jsonl.old").read_bytes()


def test_what_a_dead_letter_tells(engine: Engine, letters: Letters) -> None:
    result = engine.over([{"text": "\ud800", "at": (1, 2)}], lambda s: s.map(lambda x: x["none"], name="look-up"))
    (letter,) = letters(result)
    assert {key: letter[key] for key in ("rid", "step", "reason", "code", "attempts", "pipeline", "run", "input")} == {
        "rid": "items/0", "step": "look-up", "reason": "KeyError: 'none'", "code": "E411", "attempts": 1,
        "pipeline": "test", "run": result.run_id, "input": {"text": "\ud800", "at": (1, 2)},
    }  # fmt: skip
    assert letter["replayable"] is True


def test_a_dead_letter_of_what_cannot_be_kept(engine: Engine, letters: Letters) -> None:
    result = engine.over([object()], lambda s: s.map(lambda x: x["none"]))
    (letter,) = letters(result)
    assert letter["replayable"] is False
    assert "E407" in letter["why_not"]


def test_dead_letters_that_cannot_be_written_are_found_before_anything_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (folder, tmp_path / "missing" / "dead.jsonl"):
        pipeline = sage.Pipeline("test")
        pipeline.read(Items([1])).collect()
        with pytest.raises(sage.SageError, match="E651"):
            sage.run(pipeline, dead_letters=place)
    assert folder.is_dir()


def test_run_raises_what_ended_the_run() -> None:
    pipeline = sage.Pipeline("test")
    pipeline.read(Items([1])).map(lambda x: 1 // 0, on_error="fail").collect()
    with pytest.raises(sage.RecordError, match=r"E411.*ZeroDivisionError") as caught:
        sage.run(pipeline)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_unknown_engine() -> None:
    with pytest.raises(sage.SageError, match=r"E110.*got moon"):
        sage.run(sage.Pipeline("test"), engine="moon")
