"""The official client works against the simulated endpoint as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sage.llm.simulated import SimulatedEndpoint

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("default")
MODEL = "tiny-model"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny", api_key="secret") as running:
        yield running


@pytest.fixture
def client(endpoint: SimulatedEndpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=7, logprobs=True, top_logprobs=1)
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].logprobs.content) == 7


def test_streams(client: Any) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 7
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (
        text == client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=7).choices[0].message.content
    )
    pieces = client.completions.create(model=MODEL, prompt="x", max_tokens=3, stream=True)
    assert len("".join(chunk.choices[0].text for chunk in pieces)) == 12


def test_tools(client: Any) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "the sun"})


def test_embeddings_and_models(client: Any) -> None:
    vectors = client.embeddings.create(model=MODEL, input=["a", "b"]).data
    assert [len(vector.embedding) for vector in vectors] == [384, 384]
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_of_the_right_class(endpoint: SimulatedEndpoint, client: Any) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError):
        create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        create(model=MODEL, messages=MESSAGES, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    for fault, kind in (("429=1", openai.RateLimitError), ("500", openai.InternalServerError)):
        endpoint.set_faults(f"{fault}*1")
        with pytest.raises(kind):
            create(model=MODEL, messages=MESSAGES)
    endpoint.set_faults()
