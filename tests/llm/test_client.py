"""The client against an endpoint that answers well."""

import asyncio

import msgspec
import pytest
from asking import QUESTION, ask, with_client

from endpoints import MODEL, MisbehavingEndpoint
from patience import DEADLINE_S
from sage.errors import PipelineError, RecordError
from sage.llm.client import ChatClient
from sage.llm.wire import Completion
from sage.settings import Secret

GOOD = Completion("ok: why?", "stop", 7, 2, MODEL)


@pytest.mark.parametrize("word", ["ok", "json", "comments", "slow:0.05"])
def test_a_good_answer(endpoint: MisbehavingEndpoint, word: str) -> None:
    endpoint.script([word])
    assert ask(endpoint.url) == GOOD


def test_a_good_answer_that_is_not_streamed(endpoint: MisbehavingEndpoint) -> None:
    assert ask(endpoint.url, request={"stream": False}) == GOOD
    assert endpoint.requests[0].body == {"model": MODEL, "messages": QUESTION, "stream": False}


def test_an_answer_without_token_counts(endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["bare"])
    assert ask(endpoint.url) == Completion("ok: why?", "stop", None, None, MODEL)


def test_an_answer_cut_off_by_max_tokens_says_so(endpoint: MisbehavingEndpoint) -> None:
    endpoint.script(["length"])
    assert ask(endpoint.url).finish_reason == "length"


def test_what_is_sent(endpoint: MisbehavingEndpoint) -> None:
    ask(endpoint.url, key="sk-1", request={"max_tokens": 5, "temperature": 0.0, "seed": 3, "stop": ["\n"]})
    (request,) = endpoint.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == "Bearer sk-1"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.body == {
        "model": MODEL,
        "messages": QUESTION,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 3,
        "stop": ["\n"],
    }


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_base_url_with_and_without_its_version(endpoint: MisbehavingEndpoint, suffix: str) -> None:
    assert ask(endpoint.url + suffix) == GOOD


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://v100:8001", "http://v100:8001/v1"),
        ("https://llm.example/openai/", "https://llm.example/openai/v1"),
        ("https://llm.example/v1beta/openai", "https://llm.example/v1beta/openai"),
    ],
)
def test_where_the_version_goes(url: str, expected: str) -> None:
    assert ChatClient(url).url == expected


def test_connections_are_used_again(endpoint: MisbehavingEndpoint) -> None:
    async def ask_three_times(client: ChatClient) -> None:
        for _ in range(3):
            assert await client.complete(QUESTION) == GOOD

    with_client(ask_three_times, endpoint.url)
    assert len({request.peer for request in endpoint.requests}) == 1


def test_many_at_once(endpoint: MisbehavingEndpoint) -> None:
    async def ask_200_times(client: ChatClient) -> list[Completion]:
        return await asyncio.gather(*[client.complete([{"role": "user", "content": str(n)}]) for n in range(200)])

    endpoint.script(["slow:0.2"] * 200)
    answers = with_client(ask_200_times, endpoint.url)
    assert [answer.text for answer in answers] == [f"ok: {n}" for n in range(200)]
    assert endpoint.peak_in_flight > 100


def test_without_a_model_the_first_one_listed_is_asked() -> None:
    async def ask_twice(client: ChatClient) -> None:
        await asyncio.gather(client.complete(QUESTION), client.complete(QUESTION))

    with MisbehavingEndpoint(models=["first", "second"]) as endpoint:
        with_client(ask_twice, endpoint.url, model=None)
        assert [request.body["model"] for request in endpoint.requests] == ["first", "first"]
        assert len(endpoint.listings) == 1


def test_cancelling_a_call_closes_its_connection(endpoint: MisbehavingEndpoint) -> None:
    async def ask_and_cancel(client: ChatClient) -> None:
        call = asyncio.create_task(client.complete(QUESTION))
        while not endpoint.requests:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(endpoint.abandoned.acquire, timeout=DEADLINE_S)

    endpoint.script(["silence"])
    with_client(ask_and_cancel, endpoint.url)


@pytest.mark.parametrize("content", ["lone \ud800 surrogate", object(), {(1, 2): 3}])
def test_a_prompt_that_is_not_json_is_the_records_fault(endpoint: MisbehavingEndpoint, content: object) -> None:
    with pytest.raises(RecordError) as caught:
        with_client(lambda client: client.complete([{"role": "user", "content": content}]), endpoint.url)
    assert caught.value.code == "E470"
    assert endpoint.requests == []


def test_a_prompt_over_8_mb_is_the_records_fault(endpoint: MisbehavingEndpoint) -> None:
    with pytest.raises(RecordError) as caught:
        with_client(lambda client: client.complete([{"role": "user", "content": "x" * (9 << 20)}]), endpoint.url)
    assert caught.value.code == "E471"
    assert endpoint.requests == []


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none(timeout_s: float) -> None:
    with pytest.raises(PipelineError) as caught:
        ChatClient("http://127.0.0.1:8001", total_timeout_s=timeout_s)
    assert caught.value.code == "E242"


def test_a_url_or_key_that_will_not_do() -> None:
    with pytest.raises(PipelineError, match="E242"):
        ChatClient("file:///etc/passwd")
    with pytest.raises(PipelineError, match="E244") as caught:
        ChatClient("http://127.0.0.1:8001", key="sk-canary\r\nHost: evil")
    assert "canary" not in str(caught.value)


def test_a_client_does_not_show_its_key() -> None:
    client = ChatClient("http://127.0.0.1:8001", key=Secret("sk-canary"))
    assert repr(client) == "ChatClient('http://127.0.0.1:8001/v1', model=None)"


def test_a_completion_can_be_sent_and_kept() -> None:
    assert msgspec.json.decode(msgspec.json.encode(GOOD), type=Completion) == GOOD
