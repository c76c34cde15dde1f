"""The HTTP server: OpenAI's API as a client sees it, on loopback, in real time."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Wait
from sage.errors import PipelineError
from sage.llm.simulated import PROFILES, SimulatedEndpoint

TINY = PROFILES["tiny"]
SLOW = replace(TINY, name="slow", step_s=10.0)
"""Its first token comes after 10 seconds: longer than any test waits."""
CHAT: dict[str, Any] = {"model": "tiny-model", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny", seed=3) as running:
        yield running


def ask(
    endpoint: SimulatedEndpoint,
    path: str,
    body: object = None,
    *,
    raw: bytes | io.BytesIO | None = None,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request on a connection of its own."""

    async def once() -> tuple[int, dict[str, str], bytes]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        verb = method or ("GET" if data is None else "POST")
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(verb, endpoint.url + path, data=data, headers=headers) as answer,
        ):
            return answer.status, dict(answer.headers), await answer.read()

    return asyncio.run(once())


def asked(endpoint: SimulatedEndpoint, path: str, body: object) -> dict[str, Any]:
    status, headers, answer = ask(endpoint, path, body)
    assert status == 200, answer
    assert headers["X-SAGE-Simulated"] == endpoint.profile.name
    found: dict[str, Any] = json.loads(answer)
    return found


def chat(endpoint: SimulatedEndpoint, **options: Any) -> dict[str, Any]:
    return asked(endpoint, "/v1/chat/completions", {**CHAT, **options})


def events(body: bytes) -> list[dict[str, Any]]:
    lines = body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def streamed(endpoint: SimulatedEndpoint, path: str = "/v1/chat/completions", **options: Any) -> list[dict[str, Any]]:
    status, headers, body = ask(endpoint, path, {**CHAT, "stream": True, **options})
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    return events(body)


def test_a_chat_whole_and_streamed_says_the_same(endpoint: SimulatedEndpoint) -> None:
    whole = chat(endpoint, max_tokens=20)
    chunks = streamed(endpoint, max_tokens=20, stream_options={"include_usage": True})
    choice = whole["choices"][0]
    assert choice["message"]["content"] == "".join(
        chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]
    )
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 21 + ["length"]
    assert choice["finish_reason"] == "length"
    usage = whole["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (20, usage["prompt_tokens"] + 20)
    assert chunks[-1]["choices"] == []
    assert {**chunks[-1]["usage"], "prompt_tokens_details": None} == {**usage, "prompt_tokens_details": None}


def test_usage_is_what_the_tokeniser_counts(endpoint: SimulatedEndpoint) -> None:
    whole = chat(endpoint)
    assert whole["choices"][0]["finish_reason"] == "stop"
    text = whole["choices"][0]["message"]["content"]
    counted = asked(endpoint, "/tokenize", {"prompt": text})
    assert counted["count"] == len(counted["tokens"]) == whole["usage"]["completion_tokens"]
    counted = asked(endpoint, "/tokenize", {"messages": CHAT["messages"]})
    assert counted["count"] == whole["usage"]["prompt_tokens"]


def test_an_answer_that_comes_back_is_found_in_the_cache(endpoint: SimulatedEndpoint) -> None:
    first = [{"role": "user", "content": "Tell me everything about the sun. " * 20}]
    one = chat(endpoint, messages=first, max_tokens=200, ignore_eos=True)
    again = [*first, one["choices"][0]["message"], {"role": "user", "content": "And the moon?"}]
    usage = chat(endpoint, messages=again, max_tokens=1)["usage"]
    said = one["usage"]["total_tokens"]
    assert said - 16 <= usage["prompt_tokens_details"]["cached_tokens"] <= said


def test_the_same_seed_says_the_same_and_another_something_else(endpoint: SimulatedEndpoint) -> None:
    def said(**options: Any) -> str:
        return str(chat(endpoint, **options)["choices"][0]["message"]["content"])

    assert said(max_tokens=9) == said(max_tokens=9)
    assert said(max_tokens=9) == said(max_tokens=12)[: 4 * 9]
    assert said(max_tokens=9) != said(max_tokens=9, seed=1)
    with SimulatedEndpoint("tiny", seed=3) as twin:
        assert chat(twin, max_tokens=9)["choices"] == chat(endpoint, max_tokens=9)["choices"]


def test_several_choices(endpoint: SimulatedEndpoint) -> None:
    whole = chat(endpoint, n=3, max_tokens=5)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == 3
    assert whole["usage"]["completion_tokens"] == 15
    found = ["", "", ""]
    for chunk in streamed(endpoint, n=3, max_tokens=5):
        for choice in chunk["choices"]:
            found[choice["index"]] += choice["delta"].get("content") or ""
    assert found == texts


def test_a_stop_string_ends_the_answer(endpoint: SimulatedEndpoint) -> None:
    text = chat(endpoint, max_tokens=20)["choices"][0]["message"]["content"]
    stopped = chat(endpoint, max_tokens=20, stop=["@", text[42:47]])
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(text[42:47])]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    empty = streamed(endpoint, max_tokens=20, stop=text[:3], stream_options={"include_usage": True})
    assert empty[-1]["usage"]["completion_tokens"] == 0
    assert empty[-2]["choices"][0]["finish_reason"] == "stop"


def test_ignoring_the_end_gives_as_many_tokens_as_asked_for(endpoint: SimulatedEndpoint) -> None:
    assert chat(endpoint, max_tokens=700, ignore_eos=True)["usage"]["completion_tokens"] == 700
    assert chat(endpoint, max_completion_tokens=3)["usage"]["completion_tokens"] == 3


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 2},
                "unit": {"enum": ["C", "F"]},
                "at": {"$ref": "#/$defs/at"},
            },
            "$defs": {"at": {"type": "array", "items": {"type": "number"}, "minItems": 2}},
        },
    },
}


def test_tools_are_called_with_arguments_that_fit(endpoint: SimulatedEndpoint) -> None:
    choice = chat(endpoint, tools=[TOOL])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == {"city": "the sun", "days": 2, "unit": "C", "at": [1.0, 1.0]}
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(endpoint, tools=[TOOL])]
    pieces = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(pieces)) == arguments
    result = [*CHAT["messages"], choice["message"], {"role": "tool", "content": "rain", "tool_call_id": call["id"]}]
    assert chat(endpoint, tools=[TOOL], messages=result)["choices"][0]["finish_reason"] == "stop"
    assert chat(endpoint, tools=[TOOL], tool_choice="none")["choices"][0]["finish_reason"] == "stop"


def test_json_when_json_is_wanted(endpoint: SimulatedEndpoint) -> None:
    text = chat(endpoint, response_format={"type": "json_object"})["choices"][0]["message"]["content"]
    assert isinstance(json.loads(text), dict)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": ["integer", "null"]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = chat(endpoint, response_format=wanted)["choices"][0]["message"]["content"]
    assert json.loads(text) == {"ok": True, "n": 1}


def test_log_probabilities(endpoint: SimulatedEndpoint) -> None:
    whole = chat(endpoint, logprobs=True, top_logprobs=2, max_tokens=3)["choices"][0]
    content = whole["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == whole["message"]["content"]
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
    chunks = streamed(endpoint, logprobs=True, max_tokens=3)
    assert [chunk["choices"][0]["logprobs"] is not None for chunk in chunks] == [False, True, True, True, False]
    text = asked(endpoint, "/v1/completions", {"prompt": "a", "max_tokens": 2, "logprobs": 1})["choices"][0]
    assert text["logprobs"]["text_offset"] == [0, 4]


def test_completions_of_several_prompts(endpoint: SimulatedEndpoint) -> None:
    whole = asked(endpoint, "/v1/completions", {"prompt": ["one", "two words"], "n": 2, "max_tokens": 4})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"] | {"prompt_tokens_details": 0} == {
        "prompt_tokens": 1 + 3, "completion_tokens": 16, "total_tokens": 20, "prompt_tokens_details": 0,
    }  # fmt: skip
    assert len(asked(endpoint, "/v1/completions", {"prompt": [5, 6, 7]})["choices"][0]["text"]) <= 4 * 16
    chunks = streamed(endpoint, "/v1/completions", prompt="one", max_tokens=4, ignore_eos=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]


def test_embeddings(endpoint: SimulatedEndpoint) -> None:
    found = asked(endpoint, "/v1/embeddings", {"input": ["the sun", "the moon", "the sun"]})
    vectors = [entry["embedding"] for entry in found["data"]]
    assert [len(vector) for vector in vectors] == [384, 384, 384]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    assert found["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    packed = asked(endpoint, "/v1/embeddings", {"input": "the sun", "encoding_format": "base64", "dimensions": 8})
    assert len(struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))) == 8


def test_models_health_and_version(endpoint: SimulatedEndpoint) -> None:
    listed = json.loads(ask(endpoint, "/v1/models")[2])["data"]
    assert [(card["id"], card["max_model_len"]) for card in listed] == [("tiny-model", 4096)]
    assert json.loads(ask(endpoint, "/v1/models/tiny-model")[2]) == listed[0]
    assert ask(endpoint, "/v1/models/other")[0] == 404
    assert ask(endpoint, "/health")[0] == 200
    version = json.loads(ask(endpoint, "/version")[2])
    assert (version["simulated"], version["profile"]) == (True, "tiny")


def metrics(endpoint: SimulatedEndpoint) -> dict[str, float]:
    """By name, with ``{...}`` cut off; of histograms sum and count."""
    parser = pytest.importorskip("prometheus_client.parser")
    status, headers, body = ask(endpoint, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found: dict[str, float] = {}
    for family in parser.text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_the_metrics_are_those_of_vllm() -> None:
    with SimulatedEndpoint("tiny") as endpoint:
        for _ in range(3):
            chat(endpoint, max_tokens=10, ignore_eos=True)
        found = metrics(endpoint)
    prompt = found["vllm:prompt_tokens_total"]
    assert prompt == found["vllm:prefix_cache_queries_total"] > 0
    assert found["vllm:generation_tokens_total"] == 30
    assert found["vllm:request_success_total"] == 3
    assert found["vllm:time_to_first_token_seconds_count"] == 3
    assert found["vllm:inter_token_latency_seconds_count"] == 27
    assert found["vllm:inter_token_latency_seconds_sum"] == pytest.approx(27e-3, rel=0.1)
    assert found["vllm:e2e_request_latency_seconds_count"] == 3
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"):
        assert found[f"vllm:{name}"] == 0
    assert found["sage_simulated"] == 1


def test_a_client_that_goes_away_frees_its_place(wait_until: Wait) -> None:
    with SimulatedEndpoint(SLOW, max_num_seqs=1) as endpoint:
        address = urlsplit(endpoint.url)

        def connect(stream: bool) -> socket.socket:
            client = socket.create_connection((address.hostname, address.port))
            body = json.dumps({**CHAT, "stream": stream}).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.sendall(body)
            return client

        first = connect(stream=True)
        wait_until(lambda: endpoint.snapshot().running == 1)
        second = connect(stream=False)
        wait_until(lambda: endpoint.snapshot().waiting == 1)
        first.close()
        wait_until(lambda: endpoint.snapshot().running == 0)
        second.close()
        wait_until(lambda: endpoint.snapshot().waiting == 0)
        assert metrics(endpoint)["vllm:request_success_total"] == 2, "both as aborted"


BAD_CHATS: list[dict[str, Any]] = [
    {"messages": []}, {"messages": "hello"}, {"messages": [{"content": "no role"}]}, {"max_tokens": -1},
    {"max_tokens": 2**63}, {"max_tokens": 5000}, {"n": 1_000_000}, {"n": 0}, {"temperature": 3}, {"top_p": 0},
    {"min_tokens": 9, "max_tokens": 8},
    {"stop": ["x"] * 100_000}, {"logit_bias": {str(i): 1.0 for i in range(2000)}}, {"stream": "yes"},
    {"tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
    {"response_format": {"type": "xml"}}, {"messages": CHAT["messages"] * 3000},
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_CHATS, ids=lambda wrong: next(iter(wrong)))
def test_a_bad_request_is_refused_in_openais_form(endpoint: SimulatedEndpoint, wrong: dict[str, Any]) -> None:
    status, headers, body = ask(endpoint, "/v1/chat/completions", {**CHAT, **wrong})
    error = json.loads(body)["error"]
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "gpt-9"}, 404, "model_not_found"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 4096}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": "x" * 20_000}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": ["x"] * 65}, 400, None),
        ("/v1/completions", {"prompt": ["x", 1]}, 400, None),
        ("/v1/completions", {"prompt": "x", "echo": True}, 400, None),
        ("/v1/embeddings", {"input": []}, 400, None),
        ("/v1/embeddings", {"input": "x", "dimensions": 10**9}, 400, None),
        ("/v1/embeddings", {"input": "x" * 20_000}, 400, "context_length_exceeded"),
        ("/v1/nothing", {}, 404, None),
        ("//v1/chat/completions", CHAT, 404, None),
        ("/v1/models", {}, 405, None),
        ("/admin/restart", {}, 404, None),
    ],
)
def test_what_is_refused(endpoint: SimulatedEndpoint, path: str, body: object, status: int, code: str | None) -> None:
    found, _, answer = ask(endpoint, path, body)
    assert (found, json.loads(answer)["error"]["code"]) == (status, code)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"messages": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_request(endpoint: SimulatedEndpoint, raw: bytes) -> None:
    assert ask(endpoint, "/v1/chat/completions", raw=raw, method="POST")[0] == 400


def test_a_body_that_is_too_large(endpoint: SimulatedEndpoint) -> None:
    assert ask(endpoint, "/v1/chat/completions", raw=io.BytesIO(b" " * (9 << 20)), method="POST")[0] == 413


@pytest.mark.parametrize("depth", [70, 400, 900])
def test_a_body_that_is_nested_deep(endpoint: SimulatedEndpoint, depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    for field in (
        b'"tools": [{"function": {"name": "f", "parameters": %b}}]',
        b'"messages": [{"role": "x", "tool_calls": %b}]',
    ):
        raw = b'{"messages": [{"role": "user"}], ' + field % deep + b"}"
        status, _, answer = ask(endpoint, "/v1/chat/completions", raw=raw)
        assert status in (200, 400), answer


def test_a_stream_needs_chunks(endpoint: SimulatedEndpoint) -> None:
    address = urlsplit(endpoint.url)
    body = json.dumps({**CHAT, "stream": True}).encode()
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(1000).split()[1] == b"400"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([
    "messages", "model", "max_tokens", "n", "stop", "stream", "stream_options", "temperature", "tools", "tool_choice",
    "response_format", "logprobs", "top_logprobs", "prompt", "input", "seed", "priority", "min_tokens", "dimensions",
])  # fmt: skip


@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"]),
    st.dictionaries(FIELDS, VALUES, max_size=3),
)
@settings(max_examples=60)
def test_no_request_breaks_the_server(endpoint: SimulatedEndpoint, path: str, fields: dict[str, Any]) -> None:
    base = {"messages": CHAT["messages"], "prompt": "x", "input": "x", "max_tokens": 2}
    status, _, body = ask(endpoint, path, base | fields)
    assert status in (200, 400, 404), body


def test_a_key_is_needed_where_one_is_set() -> None:
    with SimulatedEndpoint("tiny", api_key="canary", admin_token="other") as endpoint:
        for path in ("/v1/models", "/nothing", "/admin"):
            status, _, body = ask(endpoint, path)
            assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
            assert b"canary" not in body
        assert ask(endpoint, "/v1/models", headers={"Authorization": "Bearer canary"})[0] == 200
        assert ask(endpoint, "/admin", headers={"Authorization": "Bearer canary"})[0] == 401
        assert ask(endpoint, "/admin", headers={"Authorization": "Bearer other"})[0] == 200
        assert [ask(endpoint, path)[0] for path in ("/health", "/version", "/metrics")] == [200, 200, 200]


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/v1/%6dodels", "/health/../v1/models", "/v1/models?x=/health", "/health;/v1/models"],
)
def test_no_other_spelling_of_a_path_needs_no_key(path: str) -> None:
    with SimulatedEndpoint("tiny", api_key="canary") as endpoint:
        address = urlsplit(endpoint.url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert client.recv(1000).split()[1] in (b"401", b"400")


def test_where_it_cannot_listen(endpoint: SimulatedEndpoint) -> None:
    port = urlsplit(endpoint.url).port
    assert port is not None
    with pytest.raises(PipelineError, match="E247"), SimulatedEndpoint(host="0.0.0.0"):
        pass
    with pytest.raises(PipelineError, match="E248"), SimulatedEndpoint(port=port):
        pass


def test_many_streams_at_once_lose_nothing() -> None:
    """200 at a time, in 64 places of a batch."""

    async def flood(url: str) -> list[bytes]:
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 10, "ignore_eos": True}).encode()
        connector = aiohttp.TCPConnector(limit=200)

        async with aiohttp.ClientSession(connector=connector) as session:

            async def one() -> bytes:
                async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
                    return await answer.read()

            return await asyncio.gather(*(one() for _ in range(400)))

    with SimulatedEndpoint("tiny") as endpoint:
        answers = asyncio.run(flood(endpoint.url))
        assert {len(events(answer)) for answer in answers} == {12}
        snapshot = endpoint.snapshot()
    assert (snapshot.output_tokens, snapshot.running, snapshot.waiting, snapshot.kv_usage) == (4000, 0, 0, 0)
