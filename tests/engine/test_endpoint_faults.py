"""A pipeline that asks an LLM endpoint which misbehaves: nothing is lost, and waiting burns no retry."""

from collections.abc import Iterator
from typing import Any

import pytest

import sage
from endpoints import MODEL, MisbehavingEndpoint, closed_port_url
from engines import Engine
from live import Live
from patience import DEADLINE_S
from sage import Operator, OperatorContext, Status
from sage.connectors import Items
from sage.llm import ChatClient

pytestmark = pytest.mark.once  # calls that overlap stay in the user's process on every engine


@pytest.fixture
def endpoint() -> Iterator[MisbehavingEndpoint]:
    with MisbehavingEndpoint() as running:
        yield running


class Address(Live):
    """Where the endpoint is; it may come up later."""

    def __init__(self, url: str) -> None:
        self.url = url


class Ask(Operator):
    """Asks the endpoint about each record."""

    def __init__(self, address: Address, **timeouts: float) -> None:
        self.address = address
        self.timeouts = timeouts

    async def open(self, context: OperatorContext) -> None:  # type: ignore[override]
        self.clients: dict[str, ChatClient] = {}

    async def __call__(self, question: str) -> str:
        url = self.address.url
        if url not in self.clients:
            self.clients[url] = client = ChatClient(url, model=MODEL, **self.timeouts)
            await client.open()
        completion = await self.clients[url].complete([{"role": "user", "content": question}])
        return completion.text

    async def close(self) -> None:  # type: ignore[override]
        for client in self.clients.values():
            await client.close()


QUESTIONS = [f"q{n}" for n in range(20)]
ANSWERS = sorted(f"ok: q{n}" for n in range(20))


def asked(engine: Engine, url: str, *, timeouts: dict[str, float] | None = None, **options: Any) -> sage.RunResult:
    operator = Ask(Address(url), **(timeouts or {}))
    return engine.over(QUESTIONS, lambda s: s.map(operator, **{"name": "ask", "concurrency": 4, **options}))


def retries_of(result: sage.RunResult) -> int:
    return next(step.retries for step in result.steps if step.name == "ask")


def test_a_good_endpoint(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    result = asked(engine, endpoint.url)
    assert sorted(result.collected()) == ANSWERS
    assert len(endpoint.requests) == 20
    assert 1 <= endpoint.peak_in_flight <= 4


def test_an_endpoint_that_is_down_at_the_start(engine: Engine, endpoint: MisbehavingEndpoint, wait_until: Any) -> None:
    address = Address(closed_port_url())
    pipeline = sage.Pipeline("down")
    pipeline.read(Items(QUESTIONS)).map(Ask(address), name="ask", concurrency=4).collect()
    job = engine.start(pipeline)
    wait_until(lambda: job.snapshot().stalled)
    assert "E722" in str(job.snapshot().stalled)
    address.url = endpoint.url
    result = job.wait(DEADLINE_S)
    assert sorted(result.collected()) == ANSWERS
    assert (result.status, retries_of(result)) == (Status.SUCCEEDED, 0)


def test_an_endpoint_that_goes_away_and_comes_back(
    engine: Engine, endpoint: MisbehavingEndpoint, wait_until: Any
) -> None:
    address = Address(endpoint.url)
    endpoint.script(["ok"] * 8 + ["503"] * 12)
    pipeline = sage.Pipeline("away")
    pipeline.read(Items(QUESTIONS)).map(Ask(address), name="ask", concurrency=4).collect()
    job = engine.start(pipeline)
    result = job.wait(DEADLINE_S)
    assert sorted(result.collected()) == ANSWERS
    assert (result.status, retries_of(result)) == (Status.SUCCEEDED, 0)
    assert len(endpoint.requests) == 32


@pytest.mark.parametrize("word", ["429:0", "429", "503", "529"])
def test_being_asked_to_wait_burns_no_retry(engine: Engine, endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 15)
    result = asked(engine, endpoint.url, retries=0)
    assert sorted(result.collected()) == ANSWERS
    assert (result.status, retries_of(result)) == (Status.SUCCEEDED, 0)
    assert len(endpoint.requests) == 35


@pytest.mark.parametrize(
    "word", ["500", "502", "reset", "cut:2", "abort:2", "no-reason", "bad-utf8", "error-200", "empty"]
)
def test_failed_attempts_are_made_again(engine: Engine, endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 6)
    result = asked(engine, endpoint.url, retries=6)
    assert sorted(result.collected()) == ANSWERS
    assert (result.status, retries_of(result)) == (Status.SUCCEEDED, 6)
    assert len(endpoint.requests) == 26


def test_without_retries_a_failed_attempt_is_a_dead_letter(
    engine: Engine, endpoint: MisbehavingEndpoint, letters: Any
) -> None:
    endpoint.script(["500", "cut:2", "nan"])
    result = asked(engine, endpoint.url)
    assert len(result.collected()) == 17
    assert sorted(letter["code"] for letter in letters(result)) == ["E710", "E730", "E732"]
    questions = {letter["input"] for letter in letters(result)}
    assert sorted([*result.collected(), *(f"ok: {question}" for question in questions)]) == ANSWERS


@pytest.mark.parametrize("word", ["silence", "headers", "stop:2"])
def test_an_endpoint_that_falls_silent(engine: Engine, endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 3)
    quick = {"first_byte_timeout_s": 0.25, "between_chunks_timeout_s": 0.25}
    result = asked(engine, endpoint.url, timeouts=quick, retries=20)
    assert sorted(result.collected()) == ANSWERS
    assert retries_of(result) >= 3  # a busy machine may be silent, too


def test_the_time_of_the_step_runs_out(engine: Engine, endpoint: MisbehavingEndpoint, letters: Any) -> None:
    endpoint.script(["silence"])
    result = asked(engine, endpoint.url, timeout_s=1.0)
    assert len(result.collected()) == 19
    assert [letter["code"] for letter in letters(result)] == ["E410"]
    assert endpoint.abandoned.acquire(timeout=DEADLINE_S)  # the connection was closed, so that nobody generates in vain


@pytest.mark.parametrize(("word", "code"), [("400", "E470"), ("context", "E471"), ("filtered", "E472")])
def test_a_prompt_that_will_never_work(
    engine: Engine, endpoint: MisbehavingEndpoint, letters: Any, word: str, code: str
) -> None:
    endpoint.script([word])
    result = asked(engine, endpoint.url, retries=5)
    assert [(letter["code"], letter["attempts"]) for letter in letters(result)] == [(code, 1)]
    assert len(result.collected()) == 19


@pytest.mark.parametrize("word", ["401", "404", "quota", "unknown-model"])
def test_an_endpoint_that_will_refuse_everything_ends_the_run(
    engine: Engine, endpoint: MisbehavingEndpoint, word: str
) -> None:
    endpoint.script([word] * 20)
    result = asked(engine, endpoint.url, retries=5)
    assert result.status is Status.FAILED
    assert result.error is not None
    assert (result.error.code, result.error.exit_code) == ("E703", 7)
    assert len(endpoint.requests) <= 4
    assert result.account.dead_lettered == 0


def test_all_faults_at_once(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["500", "429:0", "cut:1", "503", "reset", "half-line", "slow:0.05", "429", "deep", "ok"] * 2)
    result = asked(engine, endpoint.url, retries=8)
    assert sorted(result.collected()) == ANSWERS
    assert retries_of(result) == 10
