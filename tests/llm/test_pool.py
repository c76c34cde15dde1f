"""The pool over real HTTP, against endpoints that misbehave."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from asking import QUESTION

from endpoints import MODEL, MisbehavingEndpoint, closed_port_url
from patience import DEADLINE_S
from sage.errors import EndpointBusy, EndpointError, EndpointRefused, PipelineError, RecordError
from sage.llm import EndpointPool
from sage.llm.client import ChatClient
from sage.llm.simulated import SimulatedEndpoint

T = TypeVar("T")


@pytest.fixture
def second() -> Iterator[MisbehavingEndpoint]:
    with MisbehavingEndpoint() as running:
        yield running


def with_pool(work: Callable[[EndpointPool], Awaitable[T]], *urls: str, **options: Any) -> T:
    """Run `work` with an open pool; asserts that no task, no request and no waiting one is left."""

    async def run() -> T:
        pool = EndpointPool(urls, **{"model": MODEL, **options})
        await pool.open()
        try:
            return await work(pool)
        finally:
            await pool.close()
            await pool.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert pool.waiting == 0
            assert [(each.limit.in_flight, each.outstanding_tokens) for each in pool.snapshot()] == [(0, 0)] * len(urls)

    return asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def ask(*urls: str, **options: Any) -> str:
    return with_pool(lambda pool: pool.complete(QUESTION), *urls, **options).text


def test_a_good_answer(endpoint: MisbehavingEndpoint) -> None:
    assert ask(endpoint.url) == "ok: why?"


def test_two_endpoints_share_the_work(endpoint: MisbehavingEndpoint, second: MisbehavingEndpoint) -> None:
    async def ask_40_times(pool: EndpointPool) -> None:
        await asyncio.gather(*[pool.complete(QUESTION) for _ in range(40)])

    with_pool(ask_40_times, endpoint.url, second.url)
    assert min(len(endpoint.requests), len(second.requests)) >= 10


def test_what_cannot_be_sent_waits_here_and_not_there(endpoint: MisbehavingEndpoint) -> None:
    async def ask_20_times(pool: EndpointPool) -> None:
        await asyncio.gather(*[pool.complete(QUESTION) for _ in range(20)])

    endpoint.script(["slow:0.02"] * 20)
    with_pool(ask_20_times, endpoint.url, most=3)
    assert endpoint.peak_in_flight == 3


@pytest.mark.parametrize("word", ["429:0.05", "503:0.05"])
def test_a_rate_limit_is_waited_for_and_is_no_failure(endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word] * 3)
    assert ask(endpoint.url) == "ok: why?"
    assert len(endpoint.requests) == 4


def test_while_one_asks_to_wait_the_other_answers(endpoint: MisbehavingEndpoint, second: MisbehavingEndpoint) -> None:
    async def ask_6_times(pool: EndpointPool) -> None:
        for _ in range(6):
            await pool.complete(QUESTION)

    endpoint.script(["429:200"])
    with_pool(ask_6_times, endpoint.url, second.url)
    assert len(endpoint.requests) == 1
    assert len(second.requests) == 6


@pytest.mark.parametrize("word", ["500", "reset", "cut:0", "html", "not-http"])
def test_a_failure_before_the_first_text_goes_elsewhere(
    endpoint: MisbehavingEndpoint, second: MisbehavingEndpoint, word: str
) -> None:
    endpoint.script([word])
    second.script([word])
    with pytest.raises(EndpointError):
        ask(endpoint.url, second.url)
    assert len(endpoint.requests) == len(second.requests) == 1
    endpoint.script([word])
    assert ask(endpoint.url, second.url) == "ok: why?"


def test_a_failure_after_the_first_text_is_the_callers(
    endpoint: MisbehavingEndpoint, second: MisbehavingEndpoint
) -> None:
    endpoint.script(["cut:2"])
    second.script(["cut:2"])
    with pytest.raises(EndpointError, match="E730"):
        ask(endpoint.url, second.url)
    assert len(endpoint.requests) + len(second.requests) == 1


def test_a_dead_endpoint_is_gone_around(endpoint: MisbehavingEndpoint) -> None:
    async def ask_10_times(pool: EndpointPool) -> None:
        await asyncio.gather(*[pool.complete(QUESTION) for _ in range(10)])

    with_pool(ask_10_times, closed_port_url(), endpoint.url)
    assert len(endpoint.requests) == 10


def test_with_no_endpoint_alive_the_wait_ends() -> None:
    with pytest.raises(EndpointBusy, match="E724") as caught:
        ask(closed_port_url(), wait_timeout_s=0.1)
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(("word", "kind"), [("400", RecordError), ("context", RecordError), ("401", EndpointRefused)])
def test_what_is_not_the_endpoints_fault_is_not_tried_again(
    endpoint: MisbehavingEndpoint, second: MisbehavingEndpoint, word: str, kind: type[Exception]
) -> None:
    endpoint.script([word])
    second.script([word])
    with pytest.raises(kind):
        ask(endpoint.url, second.url)
    assert len(endpoint.requests) + len(second.requests) == 1


def test_a_cancelled_request_frees_its_place_at_once(endpoint: MisbehavingEndpoint) -> None:
    """ray#60118."""

    async def ask_and_cancel(pool: EndpointPool) -> str:
        call = asyncio.create_task(pool.complete(QUESTION))
        await until(lambda: endpoint.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return (await pool.complete(QUESTION)).text

    endpoint.script(["silence"])
    assert with_pool(ask_and_cancel, endpoint.url, most=1) == "ok: why?"
    assert endpoint.abandoned.acquire(timeout=DEADLINE_S)


def test_a_request_that_is_cancelled_while_it_waits_is_never_sent(endpoint: MisbehavingEndpoint) -> None:
    """ray#21438."""

    async def cancel_the_second(pool: EndpointPool) -> None:
        first, second, third = (asyncio.create_task(pool.complete(QUESTION)) for _ in range(3))
        await until(lambda: endpoint.requests and pool.waiting == 2)
        second.cancel()
        await asyncio.gather(first, third)
        assert second.cancelled()

    endpoint.script(["slow:1"])
    with_pool(cancel_the_second, endpoint.url, most=1)
    assert len(endpoint.requests) == 2


def test_one_that_is_cancelled_in_the_moment_of_its_turn_gives_the_place_on(endpoint: MisbehavingEndpoint) -> None:
    async def cancel_with_the_first(pool: EndpointPool) -> str:
        first, second, third = (asyncio.create_task(pool.complete(QUESTION)) for _ in range(3))
        await until(lambda: endpoint.requests and pool.waiting == 2)
        second.cancel()
        first.cancel()
        return (await third).text

    endpoint.script(["silence"])
    assert with_pool(cancel_with_the_first, endpoint.url, most=1) == "ok: why?"


def test_closing_ends_those_that_wait(endpoint: MisbehavingEndpoint) -> None:
    async def close_under_them(pool: EndpointPool) -> list[BaseException | Any]:
        calls = [asyncio.create_task(pool.complete(QUESTION)) for _ in range(3)]
        await until(lambda: endpoint.requests and pool.waiting == 2)
        await pool.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    endpoint.script(["silence"])
    outcomes = with_pool(close_under_them, endpoint.url, most=1)
    assert all(isinstance(outcome, EndpointError | RuntimeError) for outcome in outcomes)


def test_a_pool_that_is_not_open() -> None:
    async def ask_too_early() -> None:
        await EndpointPool(["http://127.0.0.1:9"]).complete(QUESTION)

    with pytest.raises(RuntimeError, match="not open"):
        asyncio.run(ask_too_early())


@pytest.mark.parametrize(
    "options", [{"urls": []}, {"urls": ["http://a", "http://a"]}, {"start": 0}, {"wait_timeout_s": 0}]
)
def test_a_pool_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="E242"):
        EndpointPool(**{"urls": ["http://a"], **options})


class TestStreaming:
    """`stream` of the pool and of the client."""

    @pytest.fixture(params=[EndpointPool, ChatClient])
    def kind(self, request: pytest.FixtureRequest) -> Any:
        return (lambda url: EndpointPool([url], model=MODEL)) if request.param is EndpointPool else ChatClient

    def run(self, made: Any, work: Callable[[Any], Awaitable[T]]) -> T:
        async def run() -> T:
            async with made:
                return await work(made)

        return asyncio.run(run())

    def test_texts_come_one_by_one(self, kind: Any, endpoint: MisbehavingEndpoint) -> None:
        async def read(one: Any) -> tuple[list[str], str]:
            async with one.stream(QUESTION) as answer:
                with pytest.raises(RuntimeError):
                    answer.completion
                texts = [text async for text in answer]
            return texts, answer.completion.text

        texts, whole = self.run(kind(endpoint.url), read)
        assert len(texts) > 1
        assert "".join(texts) == whole == "ok: why?"

    @pytest.mark.parametrize("word", ["cut:2", "no-reason", "abort:2", "half-line"])
    def test_half_an_answer_raises_after_what_came(self, kind: Any, endpoint: MisbehavingEndpoint, word: str) -> None:
        async def read(one: Any) -> list[str]:
            texts: list[str] = []
            with suppress(EndpointError):
                async with one.stream(QUESTION) as answer:
                    async for text in answer:
                        texts.append(text)
                pytest.fail("half an answer was taken for a whole one")
            with pytest.raises(RuntimeError):
                answer.completion
            return texts

        endpoint.script([word])
        assert self.run(kind(endpoint.url), read)

    def test_leaving_early_closes_the_connection(self, kind: Any, endpoint: MisbehavingEndpoint) -> None:
        async def read(one: Any) -> None:
            async with one.stream(QUESTION) as answer:
                async for _ in answer:
                    break
            assert await asyncio.to_thread(endpoint.abandoned.acquire, timeout=DEADLINE_S)

        endpoint.script(["stop:2"])
        self.run(kind(endpoint.url), read)

    def test_the_callers_own_errors_stay_what_they_are(self, kind: Any, endpoint: MisbehavingEndpoint) -> None:
        async def read(one: Any) -> None:
            async with one.stream(QUESTION) as answer:
                async for _ in answer:
                    raise OSError("the caller's disk is full")

        with pytest.raises(OSError, match="disk is full"):
            self.run(kind(endpoint.url), read)


def test_against_a_server_that_batches() -> None:
    async def ask_150_times(pool: EndpointPool) -> tuple[int, int]:
        answers = await asyncio.gather(*[pool.complete(QUESTION, max_tokens=30, ignore_eos=True) for _ in range(150)])
        (endpoint,) = pool.snapshot()
        return sum(answer.completion_tokens or 0 for answer in answers), endpoint.limit.rounds

    with SimulatedEndpoint("tiny") as simulated:
        tokens, rounds = with_pool(ask_150_times, simulated.url, model=None)
    assert tokens == 150 * 30
    assert rounds > 0


def test_the_endpoints_own_figures_are_read() -> None:
    async def read(url: str) -> tuple[float, float] | None:
        async with ChatClient(url) as client:
            return await client.load()

    with SimulatedEndpoint("tiny") as simulated:
        assert asyncio.run(read(simulated.url)) == (0, 0)
    with MisbehavingEndpoint() as endpoint:
        assert asyncio.run(read(endpoint.url)) is None
