"""What must not get through: over real HTTP, each an error in OpenAI's form and none of them a 5xx."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from behind import CHAT, MODEL, ask, chat, gateway_for, keyed
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints import canary
from sage.errors import PipelineError
from sage.gateway import EndpointConfig, Gateway, GatewayConfig, load_config, new_key, requests
from sage.gateway.destinations import DROPPED
from sage.gateway.faults import Refusal
from sage.gateway.relay import EventRelay
from sage.llm.simulated import SimulatedEndpoint
from sage.llm.wire import TooLarge

MESSAGES = [{"role": "user", "content": "Hello"}]


def deep(levels: int) -> bytes:
    nested = "[" * levels + "]" * levels
    return f'{{"model": "{MODEL}", "messages": [{json.dumps(MESSAGES[0])}], "metadata": {nested}}}'.encode()


BAD: dict[str, tuple[object, int]] = {
    "empty": (b"", 400),
    "not JSON": (b"{", 400),
    "not UTF-8": (b'{"model": "\xff"}', 400),
    "a list": ([], 400),
    "NaN": (b'{"model": "m", "messages": [{}], "logit_bias": {"1": NaN}}', 400),
    "no model": ({"messages": MESSAGES}, 400),
    "unknown model": (chat() | {"model": "gpt-x"}, 404),
    "no messages": ({"model": MODEL, "messages": []}, 400),
    "many messages": (chat() | {"messages": MESSAGES * 2049}, 400),
    "n": (chat(n=1_000_000), 400),
    "n of another type": (chat(n=True), 400),
    "stream yes": (chat(stream="yes"), 400),
    "max_tokens -1": (chat() | {"max_tokens": -1}, 400),
    "max_tokens 2^63": (chat() | {"max_tokens": 2**63}, 400),
    "many stops": (chat(stop=["x"] * 100_000), 400),
    "logit_bias": (chat(logit_bias={str(i): 1 for i in range(2000)}), 400),
    "deep": (deep(65), 400),
    "very deep": (deep(1_000_000), 400),
    "too large": (b" " * ((8 << 20) + 1), 413),
}


def test_bad_bodies() -> None:
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as gateway:
        for name, (body, status) in BAD.items():
            said = ask(gateway, CHAT, body)
            assert (name, said.status) == (name, status)
            assert said.error["message"]
        prompts = {"model": MODEL, "prompt": ["x"] * 65}
        assert ask(gateway, "/v1/completions", prompts).error["param"] == "prompt"
        assert ask(gateway, "/v1/embeddings", {"model": MODEL, "input": ["x"] * 2049}).error["param"] == "input"
        assert ask(gateway, CHAT, chat(n=17)).error["param"] == "n"
        assert ask(gateway, CHAT, deep(62)).status == 200


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/v1/nothing", "POST", {}, 404),
        ("//v1/chat/completions", "POST", {}, 404),
        (CHAT, "GET", {}, 405),
        (CHAT, "OPTIONS", {"Origin": "http://evil"}, 403),
        (CHAT, "POST", {"Origin": "http://evil"}, 403),
        (CHAT, "POST", {"Host": "evil"}, 403),
        (CHAT, "POST", {"Host": "127.0.0.1@evil"}, 403),
        (CHAT, "POST", {"X_SAGE_Deadline": "-1"}, 400),
        (CHAT, "POST", {"X_SAGE_Deadline": "nan"}, 400),
        (CHAT, "POST", {"X_SAGE_Job": "a b"}, 400),
        (CHAT, "POST", {"X_SAGE_Step": "x" * 129}, 400),
        (CHAT, "POST", {"Content_Encoding": "gzip"}, 415),
    ],
)
def test_bad_requests(path: str, method: str, headers: dict[str, str], status: int) -> None:
    with gateway_for("http://127.0.0.1:9", models=(MODEL,)) as gateway:
        said = ask(gateway, path, chat(), method, **headers)
        assert said.status == status
        assert said.error["type"]


def test_a_request_cannot_say_where_it_goes() -> None:
    with canary() as (url, visitors), SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as gateway:
        fields = dict.fromkeys(("api_base", "base_url", "proxies"), url) | {"user_config": {"api_base": url}}
        assert ask(gateway, CHAT, chat(**fields, extra_headers={"Host": url})).status == 200
        assert visitors == []


@given(st.sampled_from(sorted(DROPPED)), st.integers(0, 8), st.booleans(), st.sampled_from(["dict", "list"]))
def test_destinations_are_dropped_at_any_depth(name: str, depth: int, escaped: bool, kind: str) -> None:
    inner: Any = {name: "http://169.254.169.254/", "kept": 1}
    for _ in range(depth):
        inner = {"x": inner} if kind == "dict" else [inner]
    text = json.dumps(chat(metadata=inner))
    if escaped:
        text = text.replace(name, "".join(f"\\u{ord(letter):04x}" for letter in name))
    sent = requests.chat(text.encode(), None).body
    assert b"169.254" not in sent
    assert b"kept" in sent


def test_names_in_the_users_own_schemas_and_texts_stay() -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"base_url": {"type": "string"}}}}
    body = json.dumps(chat("api_base", tools=[{"type": "function", "function": function}])).encode()
    assert requests.chat(body, None).body is body


def test_only_keys_open_it() -> None:
    bearer, infer = keyed("alice")
    admin_bearer, admin = keyed("root", scopes=("admin",))
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url, key=(infer, admin)) as gateway:
        for given in ("", "Bearer ", "Bearer wrong", "Bearer ' OR 1=1 --", bearer.removeprefix("Bearer ")):
            for path in (CHAT, "/v1/models", "/metrics", "/nothing", "//health", "/live/../v1/models", "/%68ealth"):
                said = ask(gateway, path, Authorization=given)
                assert (path, said.status) == (path, 401)
        assert ask(gateway, CHAT, chat(), Authorization=bearer).status == 200
        assert ask(gateway, "/metrics", Authorization=bearer).status == 403
        assert ask(gateway, "/metrics", Authorization=admin_bearer).status == 200
        assert ask(gateway, CHAT, chat(), Authorization=admin_bearer).status == 403
        assert ask(gateway, "/health").status == 200


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E242"),
        ("[[endpoint]]\nurl = 'ftp://x'", "E242"),
        ("[[endpoint]]\nurl = 'http://x'\n[[endpoint]]\nurl = 'http://x'", "E242"),
        ("host = '0.0.0.0'\n[[endpoint]]\nurl = 'http://x'", "E247"),
        ("host = '127.example.org'\n[[endpoint]]\nurl = 'http://x'", "E247"),
        ("port = 70000", "E241"),
        ("port = '1'", "E241"),
        ("prot = 1", "E241"),
        ("[[key]]\nname = 'a'\nsha256 = 'secret'", "E241"),
        ("x = ", "E243"),
        ("[[key]]\nname = 'a'\nsha256 = 'HASH'\nbudget_tokens = 0", "E241"),
        ("[[key]]\nname = 'a'\nsha256 = 'HASH'\nbudget_per = 'week'", "E241"),
        ("[[endpoint]]\nurl = 'http://x'\n[[tenant]]\nname = 'a'", "E242"),
    ],
)
def test_bad_configurations(text: str, code: str, tmp_path: Any) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text.replace("HASH", "0" * 64))
    with pytest.raises(PipelineError, match=code):
        Gateway(load_config(file), tmp_path / "usage.sqlite")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prot = 1\n[[endpoint]]\nurl = 'http://x'", 1),
        ("[[endpoint]]\nurl = 'http://x'\nprot = 1", 3),
        ("port = 1\n[[endpoint]]\nurl = 'http://x'\n[[endpoint]]\nurl = 7", 5),
        ("[[keys]]\nname = 'a'", 1),
        ("[[key]]\nname = 'a'\nsha256 = 'HASH'\n\n[[key]]\nname = 'b'\nweight = 0\nsha256 = 'HASH'", 7),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(text: str, line: int, tmp_path: Any) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text.replace("HASH", "0" * 64))
    with pytest.raises(PipelineError, match=rf"gateway\.toml:{line}: "):
        load_config(file)


def test_a_new_key_fits_its_entry() -> None:
    key, entry = new_key("alice")
    assert hashlib.sha256(key.encode()).hexdigest() == entry.sha256
    with pytest.raises(PipelineError, match="E242"):
        new_key("a b")


def test_the_relay_passes_on_every_byte_but_the_usage() -> None:
    event = b'data: {"choices": [{"delta": {"content": "\\"usage\\": {"}}], "usage": null}\r\n\r\n: ping\n\n'
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    stream = event * 2 + usage + b"data: [DONE]\n\n"
    for wanted, expected in ((True, stream), (False, stream.replace(usage, b""))):
        for step in (1, 7, 1000):
            relay = EventRelay(wanted)
            passed = b"".join(relay.feed(stream[i : i + step]) for i in range(0, len(stream), step))
            assert passed == expected
            assert relay.done
            assert relay.usage is not None
            assert relay.usage.prompt_tokens == 3


def test_a_line_of_a_stream_without_end_is_not_kept() -> None:
    relay, piece = EventRelay(False), b"data: " + b"x" * (1 << 18)
    assert [relay.feed(piece) for _ in range(3)] == [b""] * 3
    with pytest.raises(TooLarge):
        relay.feed(piece)


def test_endpoints_that_share_only_some_models_are_refused() -> None:
    endpoints = (EndpointConfig("http://a", ("x", "y")), EndpointConfig("http://b", ("y",)))
    with (
        pytest.raises(PipelineError, match="E242"),
        Gateway(GatewayConfig(endpoint=endpoints, port=0), Path("usage.sqlite")),
    ):
        pass


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(["model", "messages", "prompt", "input", "stream", "stream_options", "n", "stop", "max_tokens"]),
    values | st.just(MODEL) | st.just(MESSAGES) | st.just(True),
)


@pytest.mark.parametrize("odd", [b'"x": 1e999', b'"x": "\xff"', b'"stream": true, "stream_options": {"x": 1e999}'])
def test_what_nobody_reads_may_be_no_json_either(odd: bytes) -> None:
    """Where all of a body has to be read, and only there."""
    body = b'{"model": "tiny-model", "seed": 1, "messages": [{"role": "user", "content": "Hi"}], %b}' % odd
    config = {"models": (MODEL,), "cache_bytes": 1 << 20}
    with gateway_for("http://127.0.0.1:9", **config) as gateway:  # type: ignore[arg-type]
        assert ask(gateway, CHAT, body, X_SAGE_Cache="use").status == 400
        assert ask(gateway, CHAT, body.replace(b'{"model"', b'{"base_url": "x", "model"')).status == 400


def test_what_has_no_limit_of_its_own_has_one_under_a_budget() -> None:
    body = {"model": MODEL, "prompt": "Hi", "max_completion_tokens": 3}  # which is unknown there
    asked = requests.completion(json.dumps(body).encode(), 7)
    assert json.loads(asked.body)["max_tokens"] == 7
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture, picture]}]
    seen = requests.chat(json.dumps({"model": MODEL, "messages": messages, "max_tokens": 3}).encode(), 7)
    assert seen.most_tokens > 2 * requests.MEDIA_TOKENS


@given(fields.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=64))
@settings(max_examples=300)
def test_any_body_is_taken_or_refused_and_nothing_else(body: bytes) -> None:
    for read in (requests.chat, requests.completion, requests.embedding):
        status, answer = 200, b""
        try:
            answer = read(body, None).body
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body
        assert status < 500
        assert json.loads(answer)["model" if status == 200 else "error"]


def test_the_configuration_of_the_documentation_is_a_good_one(tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "gateway.md"
    text = document.read_text().partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "gateway.toml"
    file.write_text(text.replace("# key_file", "key_file"))
    config = Gateway(load_config(file), tmp_path / "usage.sqlite").config
    assert config.endpoint[0].key_file == str(tmp_path / "upstream.key")
    assert config.key[0].tenant == "search"
