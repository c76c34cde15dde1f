"""Steps that ask an endpoint through the pool that their process shares: ``Generate``, and whatever befalls it."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

import sage
from endpoints import MODEL, MisbehavingEndpoint, canary
from engines import Engine
from patience import DEADLINE_S
from sage import Status
from sage.connectors import Items
from sage.flow.admission import EndpointFigures
from sage.llm.simulated import SimulatedEndpoint
from sage.rag import Generate

pytestmark = pytest.mark.one_process("it is about the endpoint: where other steps run makes no difference")
QUESTIONS = [{"prompt": f"q{n}"} for n in range(20)]
ANSWERS = sorted(f"ok: q{n}" for n in range(20))


@pytest.fixture
def endpoint() -> Iterator[MisbehavingEndpoint]:
    with MisbehavingEndpoint() as running:
        yield running


def asking(url: str, count: int = 20, name: str = "asking", **options: Any) -> sage.Pipeline:
    pipeline = sage.Pipeline(name)
    questions = [{"prompt": f"q{n}"} for n in range(count)]
    pipeline.read(Items(questions)).map(Generate(url, max_tokens=16), name="ask", **options).collect()
    return pipeline


def answers(result: sage.RunResult) -> list[str]:
    return sorted(record["answer"] for record in result.collected())


def step_of(result: sage.RunResult | sage.JobSnapshot) -> Any:
    return next(step for step in result.steps if step.name == "ask")


def figures(job: sage.Job) -> EndpointFigures:
    """Of the one endpoint, or nothing at all before it is asked."""
    return next(iter(step_of(job.snapshot()).endpoints), EndpointFigures("", -1, 0, 0, 0.0, 0, 0.0, ""))


def test_a_good_endpoint(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    result = engine.run(asking(endpoint.url))
    assert answers(result) == ANSWERS
    assert {record["answered_by"] for record in result.collected()} == {MODEL}
    step = step_of(result)
    assert 0 < step.waits_s < step.busy_s, "each waits for its turn, if only for a moment"


def test_several_endpoints_for_one_model(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    with MisbehavingEndpoint() as second:
        result = engine.run(asking(f"{endpoint.url}, {second.url}", 60))
        assert len(answers(result)) == 60
        assert min(len(endpoint.requests), len(second.requests)) > 10


def test_records_wait_in_the_engine(engine: Engine, endpoint: MisbehavingEndpoint, wait_until: Any) -> None:
    endpoint.script(["headers"] * 100)
    job = engine.start(asking(endpoint.url, 400))

    def is_settled() -> bool:
        step, found = step_of(job.snapshot()), figures(job)
        return (
            endpoint.in_flight == found.in_flight == found.limit == step.in_flight - found.waiting and step.turns >= 8
        )

    try:
        wait_until(is_settled)
        wait_until(lambda: 8 <= figures(job).waiting == step_of(job.snapshot()).turns <= 16 + figures(job).limit)
        assert endpoint.peak_in_flight <= figures(job).limit
    finally:
        job.abort()
        assert job.wait(DEADLINE_S).status is Status.CANCELLED


def test_two_jobs_share_one_pool(engine: Engine, endpoint: MisbehavingEndpoint, wait_until: Any) -> None:
    endpoint.script(["headers"] * 200)
    jobs = [engine.start(asking(endpoint.url, 100, name)) for name in ("first", "second")]
    for job in jobs:
        wait_until(lambda job=job: step_of(job.snapshot()).turns >= 8)
    wait_until(lambda: figures(jobs[0]).limit == endpoint.in_flight)
    both = [figures(job) for job in jobs]
    assert both[0].in_flight == both[1].in_flight == both[0].limit == endpoint.in_flight
    jobs[0].abort()
    assert jobs[0].wait(DEADLINE_S).status is Status.CANCELLED
    wait_until(lambda: figures(jobs[1]).waiting == step_of(jobs[1].snapshot()).turns)
    jobs[1].abort()
    assert jobs[1].wait(DEADLINE_S).status is Status.CANCELLED


def test_jobs_get_equal_shares_of_the_tokens(engine: Engine, wait_until: Any) -> None:
    """One has forty times as many requests waiting as the other is ever able to send at once."""
    with SimulatedEndpoint("tiny", max_num_seqs=4) as simulated:
        large = engine.start(asking(simulated.url, 4000, "large"))
        wait_until(lambda: step_of(large.snapshot()).turns >= 8)
        small = engine.start(asking(simulated.url, 4000, "small"))
        wait_until(lambda: step_of(small.snapshot()).emitted >= 50)
        before = [step_of(job.snapshot()).emitted for job in (large, small)]
        wait_until(lambda: step_of(small.snapshot()).emitted >= before[1] + 200)
        after = [step_of(job.snapshot()).emitted for job in (large, small)]
        shares = [later - earlier for earlier, later in zip(before, after, strict=True)]
        for job in (large, small):
            job.abort()
            job.wait(DEADLINE_S)
    assert 0.7 < shares[0] / shares[1] < 1.4


@pytest.mark.parametrize("word", ["429:0", "429", "503", "529", "429:nonsense", "429:Wed, 21 Oct 2015 07:28:00 GMT"])
def test_being_asked_to_wait_burns_no_retry(engine: Engine, endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 2)
    result = engine.run(asking(endpoint.url, retries=0))
    assert answers(result) == ANSWERS
    assert (result.status, step_of(result).retries) == (Status.SUCCEEDED, 0)


def test_a_wait_without_end_is_visible_and_can_be_stopped(
    engine: Engine, endpoint: MisbehavingEndpoint, wait_until: Any
) -> None:
    endpoint.script(["ok"] * 4 + ["429:1000000000"] * 100)
    job = engine.start(asking(endpoint.url, 40))
    wait_until(lambda: job.snapshot().stalled)
    stalled, found = str(job.snapshot().stalled), figures(job)
    assert "waiting for the endpoint" in stalled
    assert "E720" in stalled
    assert endpoint.url in stalled
    assert 200 < (found.opens_in_s or 0) <= 300
    assert found.parked >= 1
    job.stop()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.written) == (Status.CANCELLED, 4)
    assert result.account.missing == 0


def test_an_endpoint_that_goes_away_and_comes_back(engine: Engine, wait_until: Any) -> None:
    with SimulatedEndpoint("tiny") as first:
        url, port = first.url, int(first.url.rpartition(":")[2].partition("/")[0])
        job = engine.start(asking(url, 20_000))
        wait_until(lambda: step_of(job.snapshot()).emitted)
    wait_until(lambda: "E722" in str(job.snapshot().stalled))
    done = step_of(job.snapshot()).emitted
    with SimulatedEndpoint("tiny", port=port):
        wait_until(lambda: step_of(job.snapshot()).emitted > done + 100)
        assert step_of(job.snapshot()).dead_lettered == 0
        job.abort()
        result = job.wait(DEADLINE_S)
    assert (result.status, result.account.missing) == (Status.CANCELLED, 0)


def test_a_stop_while_it_is_away(engine: Engine, wait_until: Any) -> None:
    with SimulatedEndpoint("tiny") as first:
        job = engine.start(asking(first.url, 20_000))
        wait_until(lambda: step_of(job.snapshot()).emitted)
    wait_until(lambda: job.snapshot().stalled)
    job.stop()
    result = job.wait(DEADLINE_S)
    assert (result.status, result.account.missing) == (Status.CANCELLED, 0)
    assert result.account.unfinished > 0


def test_calls_in_an_outage_are_the_probes_of_the_breaker(engine: Engine, wait_until: Any) -> None:
    """Whoever connects is hung up on. Before it is known to be down a limit's worth of calls may find out."""
    with MisbehavingEndpoint() as good, canary() as (down, visitors):
        both = engine.start(asking(f"{good.url},{down.removesuffix('/v1/chat/completions')}", 600))
        result = both.wait(DEADLINE_S)
    assert result.account.written == 600
    assert len(visitors) < 40


@pytest.mark.parametrize("share", [0.3])
def test_a_third_of_the_answers_fail(engine: Engine, share: float, letters: Any) -> None:
    with SimulatedEndpoint("tiny", faults=[f"500@{share}"]) as simulated:
        result = engine.start(asking(simulated.url, 150, retries=12)).wait(DEADLINE_S)
        requests = 150 + step_of(result).retries
    assert letters(result) == []
    assert result.account.written == 150
    assert 150 * 0.2 < step_of(result).retries < 150 * 0.8
    assert requests < 300


@pytest.mark.parametrize("word", ["cut:2", "abort:2", "half-line", "no-reason", "reset", "error-200"])
def test_half_an_answer_is_asked_for_again(engine: Engine, endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 3)
    result = engine.run(asking(endpoint.url, retries=3))
    assert answers(result) == ANSWERS
    assert step_of(result).retries == 3


@pytest.mark.parametrize(
    ("word", "code"),
    [("bad-utf8", "E732"), ("surrogate", "E732"), ("nan", "E732"), ("wrong-type", "E733"), ("html", "E732"),
     ("huge", "E735"), ("gzip-bomb", "E731"), ("400", "E470")],
)  # fmt: skip
def test_garbage_is_a_dead_letter_and_not_the_end(
    engine: Engine, endpoint: MisbehavingEndpoint, letters: Any, word: str, code: str
) -> None:
    endpoint.script([word])
    result = engine.run(asking(endpoint.url, retries=0))
    assert [letter["code"] for letter in letters(result)] == [code]
    assert (result.status, len(answers(result))) == (Status.SUCCEEDED_WITH_DEAD_LETTERS, 19)


def test_the_time_of_a_step_does_not_run_while_a_record_waits(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    """The endpoint is away for longer than an attempt may take."""
    endpoint.script(["429:2"])
    began = time.monotonic()
    result = engine.run(asking(endpoint.url, retries=0, timeout_s=1.9))
    assert time.monotonic() - began > 1.9
    assert answers(result) == ANSWERS


def test_the_time_of_a_step_runs_out_for_those_that_were_sent(
    engine: Engine, endpoint: MisbehavingEndpoint, letters: Any
) -> None:
    endpoint.script(["silence"])
    result = engine.run(asking(endpoint.url, timeout_s=2.0, retries=0))
    assert [letter["code"] for letter in letters(result)] == ["E410"]
    assert endpoint.abandoned.acquire(timeout=DEADLINE_S)


def test_a_wrong_key_ends_the_run(engine: Engine) -> None:
    with MisbehavingEndpoint(key="right") as endpoint:
        result = engine.run(asking(endpoint.url))
    assert result.error is not None
    assert (result.status, result.error.code) == (Status.FAILED, "E703")
    assert result.account.read == 0


class Übersetzen(Generate):  # noqa: PLC2401 -- a user's
    """A step that has its name from a class."""


def test_the_gateway_is_asked_and_told_whose_request_it_is(
    engine: Engine, endpoint: MisbehavingEndpoint, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    monkeypatch.setenv("SAGE_GATEWAY_URL", endpoint.url)
    monkeypatch.setenv("SAGE_GATEWAY_KEY", "gateway-key")
    monkeypatch.setenv("SAGE_LLM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SAGE_LLM_KEY", "not-for-the-gateway")
    pipeline = sage.Pipeline("by-gateway")
    pipeline.read(Items(QUESTIONS)).map(Übersetzen()).collect()
    job = engine.start(pipeline)
    result = job.wait(DEADLINE_S)
    assert answers(result) == ANSWERS
    headers = endpoint.requests[0].headers
    assert headers["Authorization"] == "Bearer gateway-key"
    assert (headers["X-SAGE-Job"], headers["X-SAGE-Step"]) == (f"by-gateway.{result.run_id}", "%C3%9Cbersetzen")


def test_order_is_kept(engine: Engine, endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["slow:0.05", "500", "ok", "429:0", "cut:1"] * 4)
    pipeline = sage.Pipeline("ordered")
    stream = pipeline.read(Items(QUESTIONS)).order_by(lambda record: 0)
    stream.map(Generate(endpoint.url), name="ask").collect()
    result = engine.run(pipeline)
    assert [record["answer"] for record in result.collected()] == [f"ok: q{n}" for n in range(20)]
