"""The official client works against the gateway as it is, streams and errors included."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from behind import MODEL, gateway_for, keyed

from endpoints import MODEL as SCRIPTED
from endpoints import MisbehavingEndpoint
from sage.gateway import Gateway, new_key
from sage.llm import ChatClient
from sage.llm.simulated import SimulatedEndpoint

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("default")
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny") as running:
        yield running


@pytest.fixture
def client(endpoint: SimulatedEndpoint) -> Iterator[Any]:
    key, entry = new_key("alice")
    with (
        gateway_for(endpoint.url, key=(entry,), max_wait_s=0.5) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as made,
    ):
        yield made


@pytest.fixture(params=["gateway", "endpoint"])
def either(request: pytest.FixtureRequest, endpoint: SimulatedEndpoint) -> Iterator[Any]:
    """A client of the gateway, and one of the simulated endpoint itself."""
    if request.param == "gateway":
        yield request.getfixturevalue("client")
        return
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_streams_and_completions(either: Any) -> None:
    create = either.chat.completions.create
    whole = create(model=MODEL, messages=MESSAGES, max_tokens=7, logprobs=True, top_logprobs=1)
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (7, "length")
    assert len(whole.choices[0].logprobs.content) == 7
    chunks = list(create(model=MODEL, messages=MESSAGES, max_tokens=7, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    options = {"include_usage": True}
    *_, last = create(model=MODEL, messages=MESSAGES, max_tokens=7, stream=True, stream_options=options)
    assert last.usage == whole.usage
    pieces = either.completions.create(model=MODEL, prompt="x", max_tokens=3, stream=True)
    assert len("".join(chunk.choices[0].text for chunk in pieces)) == 12


def test_tools_embeddings_and_models(either: Any) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    answer = either.chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "the sun"})
    vectors = either.embeddings.create(model=MODEL, input=["a", "b"]).data
    assert [len(vector.embedding) for vector in vectors] == [384, 384]
    assert [model.id for model in either.models.list()] == [MODEL]
    assert either.models.retrieve(MODEL).id == MODEL


def test_errors_are_of_the_right_class(endpoint: SimulatedEndpoint, client: Any) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError):
        create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        create(model=MODEL, messages=MESSAGES, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded", "the endpoint's own"
    with pytest.raises(openai.BadRequestError) as caught:
        create(model=MODEL, messages=MESSAGES, n=17)
    assert caught.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    endpoint.set_faults("500*1")
    with pytest.raises(openai.InternalServerError):
        create(model=MODEL, messages=MESSAGES)
    endpoint.set_faults("half*1")
    with pytest.raises(openai.APIError, match="half an answer"):
        list(create(model=MODEL, messages=MESSAGES, stream=True))
    endpoint.set_faults("503=60")
    with pytest.raises(openai.InternalServerError):
        create(model=MODEL, messages=MESSAGES)
    with pytest.raises(openai.InternalServerError) as busy:
        create(model=MODEL, messages=MESSAGES)
    assert int(busy.value.response.headers["Retry-After"]) > 50
    endpoint.set_faults()


def test_what_a_key_may_not_is_of_the_right_class(endpoint: SimulatedEndpoint) -> None:
    bearer, entry = keyed("alice", requests_per_minute=1)
    other, admin = keyed("root", scopes=("admin",))
    patient, third = keyed("bob")
    with (
        gateway_for(endpoint.url, key=(entry, admin, third)) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=bearer.split()[1], max_retries=0) as client,
    ):
        create = client.chat.completions.create
        create(model=MODEL, messages=MESSAGES, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as caught:
            create(model=MODEL, messages=MESSAGES, max_tokens=1)
        assert (caught.value.code, caught.value.param) == ("rate_limit_exceeded", "requests_per_minute")
        with pytest.raises(openai.PermissionDeniedError):
            client.with_options(api_key=other.split()[1]).models.list()
        endpoint.set_faults("silence")
        hasty = client.with_options(api_key=patient.split()[1], timeout=0.1)
        with pytest.raises(openai.APITimeoutError):
            hasty.embeddings.create(model=MODEL, input="x")


def test_our_own_clients_too(endpoint: SimulatedEndpoint) -> None:

    async def ask(gateway: Gateway) -> str:
        async with ChatClient(gateway.url) as client:
            return (await client.complete([{"role": "user", "content": "Hi"}], max_tokens=3)).model

    with gateway_for(endpoint.url) as gateway:
        assert asyncio.run(ask(gateway)) == MODEL


def test_every_option_reaches_the_endpoint_as_it_was_given() -> None:
    schema = {"name": "answer", "schema": {"type": "object", "properties": {"base_url": {"type": "string"}}}}
    options: dict[str, Any] = {
        "n": 2, "stop": ["\n", "END"], "logprobs": True, "top_logprobs": 3, "seed": 7, "temperature": 0.25,
        "response_format": {"type": "json_schema", "json_schema": schema}, "logit_bias": {"50256": -100},
        "tool_choice": "none", "parallel_tool_calls": False, "metadata": {"a": "b"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    }  # fmt: skip
    with (
        MisbehavingEndpoint() as scripted,
        gateway_for(scripted.url) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        client.chat.completions.create(
            model=SCRIPTED, messages=MESSAGES, **options, extra_body={"guided_regex": "a*", "top_k": 4}
        )
    (seen,) = scripted.requests
    assert seen.body == {"model": SCRIPTED, "messages": MESSAGES, **options, "guided_regex": "a*", "top_k": 4}


def test_what_an_endpoint_says_of_a_request_is_of_the_right_class() -> None:
    with (
        MisbehavingEndpoint() as scripted,
        gateway_for(scripted.url, max_wait_s=0.2) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        for word, kind in (
            ("409", openai.ConflictError), ("detail-422", openai.UnprocessableEntityError),
            ("context", openai.BadRequestError), ("echo-key", openai.InternalServerError),
        ):  # fmt: skip
            scripted.script([word])
            with pytest.raises(kind):
                client.chat.completions.create(model=SCRIPTED, messages=MESSAGES)
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as late,
        pytest.raises(openai.APIConnectionError),
    ):
        late.models.list()
