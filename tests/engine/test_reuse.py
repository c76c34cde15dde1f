"""Results that jobs share: what is paid once, what is paid again, and what becomes of a damaged cache."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import sage
from patience import DEADLINE_S
from sage.connectors import Items, JsonLines, Stdout
from sage.errors import SageError
from sage.llm.simulated import SimulatedEndpoint
from sage.rag import Generate
from sage.runtime.durability.audit import bill
from sage.runtime.durability.fingerprint import fingerprint
from sage.runtime.durability.reuse import FILE, Reuse
from sage.runtime.processes import ProcessEngine

SHARED = Path("shared")


class Model:
    """A call that costs money: each is noted."""

    def __init__(self, answer: str = "yes") -> None:
        self._answer = answer  # as private as many an operator's model is

    def __call__(self, n: Any) -> dict[str, Any]:
        with open("bill", "a") as file:
            file.write(f"{n}\n")
        return {"n": n, "answer": self._answer, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


class AsyncModel(Model):
    async def __call__(self, n: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return super().__call__(n)


class Lists(Model):
    def __call__(self, some: Any) -> Any:
        return [Model.__call__(self, n) for n in some]


def paid() -> int:
    return len(Path("bill").read_text().splitlines())


def run(
    job: str, operator: Any, records: Any = range(20), name: str = "call", processes: int = 1, **options: Any
) -> sage.RunResult:
    """Another job, of another pipeline, that asks the same."""
    pipeline = sage.Pipeline(job)
    step = pipeline.read(Items(records)).map(operator, name=name, durable=True, **options)
    step.write(JsonLines(f"{job}.jsonl"))
    result = sage.start(pipeline, sage.RunOptions(job_dir=Path(job), reuse=SHARED, processes=processes)).wait(
        DEADLINE_S
    )
    assert result.error is None
    return result


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Model, {}),
        (Model, {"processes": 2}),
        (Model, {"concurrency": 4}),
        (AsyncModel, {"concurrency": 4}),
        (Lists, {"batch_size": 5}),
    ],
    ids=["call", "processes", "threads", "async", "lists"],
)
def test_what_another_job_paid_is_not_paid_again(kind: type[Model], options: dict[str, Any]) -> None:
    first = run("first", kind(), **options)
    second = run("second", kind(), range(5, 30), name="other", **options)
    assert paid() == 30
    (told,) = first.bill
    assert (told.paid, told.adopted, told.paid_tokens) == (20, 0, 100)
    (told,) = second.bill
    assert (told.step, told.paid, told.adopted, told.paid_tokens, told.adopted_tokens) == ("other", 10, 15, 50, 75)
    assert told == bill(Path("second"))[0], "the run's bill is that of its job"
    answers = [json.loads(line) for line in Path("second.jsonl").read_text().splitlines()]
    assert sorted(answer["n"] for answer in answers) == list(range(5, 30))


def test_hosts_that_do_not_see_the_folder_ask_for_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessEngine, "sees_files", False)
    run("first", Model(), processes=2)
    second = run("second", Model(), range(5, 30), processes=2)
    assert paid() == 30
    (told,) = second.bill
    assert (told.paid, told.adopted, told.paid_tokens, told.adopted_tokens) == (10, 15, 50, 75)


def test_another_model_or_record_is_asked() -> None:
    run("first", Model())
    run("second", Model("no"))
    assert paid() == 40
    run("third", Model("no"), [str(n) for n in range(20)])
    assert paid() == 60


OPERATORS = """
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PROMPT = "Who are you?"

def helper(n):
    return n + 1

class Base:
    limit = 3
    def __call__(self, n):
        return self.ask(n)

class Ask(Base):
    def __init__(self):
        self._model = "small"
        self.parts = [Path("a"), {"x": object}]
    def ask(self, n):
        return other(n)

@dataclass(frozen=True, slots=True)
class Slotted:
    model: str
    def __call__(self, n):
        return self.model

def other(n):
    return [PROMPT for _ in range(helper(n))] if n else again(n)

def again(n):
    return other(n)

operators = [other, Ask(), Slotted("large"), partial(other, n=5), lambda n: Ask().ask(n), Slotted("large").__call__]
"""
"""Each depends on the text, the helper, the class variable or the attribute in its own way."""


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("Who", "What", [0, 1, 3, 4]),
        ("n + 1", "n + 2", [0, 1, 3, 4]),
        ("limit = 3", "limit = 4", [1, 4]),
        ('"small"', '"big"', [1, 4]),
        ('Path("a")', 'Path("b")', [1, 4]),
        ('"large"', '"huge"', [2, 5]),
        ("Who", "Who", []),
    ],
    ids=["constant", "helper", "class", "private", "inside", "slots", "nothing"],
)
def test_what_an_operator_does_is_known_by_all_that_its_module_says(
    before: str, after: str, changed: list[int]
) -> None:
    def fingerprints(source: str, *, used: bool) -> list[str]:
        names: dict[str, Any] = {"__name__": "operators"}
        exec(compile(source, "operators.py", "exec", dont_inherit=True), names)
        if used:
            str(names["operators"][1].parts[0])  # of which a path keeps traces in its slots
        return [fingerprint(operator) for operator in names["operators"]]

    first = fingerprints(OPERATORS, used=False)
    second = fingerprints(OPERATORS.replace(before, after), used=True)
    assert [n for n, (one, other) in enumerate(zip(first, second, strict=True)) if one != other] == changed


def test_one_job_asks_the_same_once() -> None:
    result = run("first", Model(), [7] * 50)
    assert result.bill[0].paid + result.bill[0].adopted == 50
    assert paid() == result.bill[0].paid


def test_an_adopted_result_is_the_jobs_own() -> None:
    """The shared results may go while the job is cut off."""
    run("first", Model())
    pipeline = sage.Pipeline("second")
    stream = pipeline.read(Items(range(21))).map(Model(), name="call", durable=True)
    stream.map(_stumble).write(JsonLines("second.jsonl"))
    options = sage.RunOptions(job_dir=Path("second"), reuse=SHARED)
    assert sage.start(pipeline, options).wait(DEADLINE_S).status is sage.Status.FAILED
    (before,) = bill(Path("second"))
    for file in SHARED.iterdir():
        file.unlink()
    Path("on").touch()
    assert sage.start(pipeline, options).wait(DEADLINE_S).error is None
    (told,) = bill(Path("second"))
    assert before.adopted == told.adopted == 20
    assert paid() == 21 + before.wasted


def _stumble(answer: dict[str, Any]) -> dict[str, Any]:
    if answer["n"] == 20 and not Path("on").exists():
        raise KeyboardInterrupt
    return answer


def test_a_flipped_bit_is_a_miss_and_is_mended() -> None:
    run("first", Model())
    with sqlite3.connect(SHARED / FILE) as base:
        base.execute("UPDATE results SET value = value || x'00' WHERE id = 7")
        base.execute("UPDATE results SET crc = crc + 1 WHERE id = 8")
    base.close()
    assert run("second", Model()).bill[0].adopted == 18
    assert run("third", Model()).bill[0].adopted == 20
    assert paid() == 22


def test_any_damage_is_a_miss_or_a_refusal() -> None:
    """Every part of the file, once: what is found is what was kept, or nothing."""
    keys = [bytes([n]) * 32 for n in range(40)]
    cache = Reuse(SHARED)
    for n, key in enumerate(keys):
        cache.put(key, {"n": n, "text": "x" * 200})
    cache.close()
    whole = (SHARED / FILE).read_bytes()
    misses, refusals = 0, []
    for at in range(0, len(whole), 397):
        (SHARED / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            cache = Reuse(SHARED)
        except SageError as error:
            refusals.append(error.code)
            continue
        for n, key in enumerate(keys):
            found = cache.get(key)
            assert found is None or found[0] == {"n": n, "text": "x" * 200}
            misses += found is None
        cache.close()
    assert misses > 0
    assert set(refusals) <= {"E605", "E612"}


def test_a_cache_that_fails_in_the_middle_costs_money_only() -> None:
    run("first", Model())
    whole = (SHARED / FILE).read_bytes()
    (SHARED / FILE).write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    second = run("second", Model())
    (notice,) = second.notices
    assert notice.startswith("W311 results were not all reused: E612 results of other jobs cannot be reused from here")
    assert second.bill[0].paid == 20


def test_it_does_not_grow_beyond_its_size() -> None:
    cache = Reuse(SHARED, most_bytes=200_000)
    for n in range(500):
        cache.put(n.to_bytes(32, "big"), "x" * 1000)
    cache.close()
    assert (SHARED / FILE).stat().st_size < 400_000
    cache = Reuse(SHARED)
    assert cache.get((499).to_bytes(32, "big")) == ("x" * 1000,)
    assert cache.get((0).to_bytes(32, "big")) is None
    cache.close()


def test_two_jobs_at_once_share_it() -> None:
    jobs = []
    for name in ("first", "second"):
        pipeline = sage.Pipeline(name)
        pipeline.read(Items(range(300))).map(Model(), durable=True).write(JsonLines(f"{name}.jsonl"))
        jobs.append(sage.start(pipeline, sage.RunOptions(job_dir=Path(name), reuse=SHARED)))
    results = [job.wait(DEADLINE_S) for job in jobs]
    assert [result.error for result in results] == [None, None]
    assert sum(result.bill[0].paid for result in results) == paid()
    assert run("third", Model(), range(300)).bill[0].adopted == 300


def test_it_needs_a_job_directory_here_and_a_folder_of_its_own() -> None:
    pipeline = sage.Pipeline("p")
    pipeline.read(Items([1])).map(Model(), durable=True).collect()
    with pytest.raises(SageError, match=r"E117 .* got no job directory"):
        sage.run(pipeline, reuse=SHARED)
    SHARED.mkdir()
    SHARED.chmod(0o777)
    with pytest.raises(SageError, match=r"E612 .* others may write to it"):
        sage.run(pipeline, reuse=SHARED, job_dir="job")
    SHARED.chmod(0o700)
    (SHARED / FILE).write_text("a file of another program\n" * 100)
    with pytest.raises(SageError, match="E612 results of other jobs cannot be reused"):
        sage.run(pipeline, reuse=SHARED, job_dir="job")


def test_answers_of_a_language_model_are_shared_by_prompt_and_model() -> None:
    def ask(job: str, prompt: str, **options: Any) -> int:
        pipeline = sage.Pipeline(job)
        operator = Generate(endpoint.url, max_tokens=4, **options)
        pipeline.read(Items([{"prompt": prompt}])).map(operator).collect()
        (told,) = sage.run(pipeline, job_dir=job, reuse=SHARED).bill
        assert told.paid + told.adopted == 1
        assert (told.adopted_tokens > 0) == (told.adopted > 0)
        return told.paid

    with SimulatedEndpoint("tiny") as endpoint:
        assert ask("a", "What is a sage?") == 1
        assert ask("b", "What is a sage?") == 0
        assert ask("c", "What is thyme?") == 1
        assert ask("d", "What is a sage?", temperature=0.5) == 1


def test_what_is_not_kept_as_the_rest_is_said_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = sage.Pipeline("p")
    pipeline.read(Items([1])).write(Stdout(), name="shown")
    job = sage.start(pipeline, sage.RunOptions(job_dir=Path("job")))
    assert job.notices == (
        "W310 step 'shown' (Stdout) may be given a record again, with the same rid, if the run is cut off and goes on",
    )
    assert job.wait(DEADLINE_S).notices == job.notices
    assert sage.run(pipeline).notices == ()
    assert capsys.readouterr().out == "1\n1\n"
