"""What no request can make the gateway do: take memory, stop answering others, write on a terminal."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from behind import CHAT, MODEL, ask, chat, gateway_for

from sage.errors import PipelineError
from sage.llm.simulated import PROFILES, SimulatedEndpoint

MOST_GROWTH_BYTES = 200 << 20
STRANGE = "\x1b[31m=cmd\r\nx"


def oversized() -> Iterator[tuple[str, bytes]]:
    """Bodies up to the limit of 8 MB that ask for far too much."""
    for path, body in (
        (CHAT, chat(n=1_000_000)),
        (CHAT, chat(max_tokens=2**63)),
        (CHAT, chat(max_tokens=-1)),
        (CHAT, chat(stop=["x"] * 100_000)),
        (CHAT, chat(logit_bias=dict.fromkeys(map(str, range(200_000)), 1))),
        (CHAT, chat(tools=[{"type": "function"}] * 100_000)),
        (CHAT, chat() | {"messages": [{"role": "user", "content": "x"}] * 150_000}),
        ("/v1/completions", {"model": MODEL, "prompt": ["x"] * 400_000}),
        ("/v1/embeddings", {"model": MODEL, "input": ["x"] * 400_000}),
        ("/v1/batches", {"input_file_id": "x" * 1_000_000}),
    ):
        yield path, json.dumps(body).encode()
    yield CHAT, b"[" * (1 << 20)
    yield CHAT, b'{"a":' * (1 << 20)
    yield CHAT, b'{"model": "' + b"\\u0041" * (1 << 20) + b'"}'


def resident_bytes(kind: str) -> int:
    """Of this process, in which the gateway runs."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_what_asks_for_too_much_is_refused_and_costs_little_memory() -> None:
    with gateway_for("http://127.0.0.1:9", models=(MODEL,)) as gateway:
        bodies = list(oversized())
        before = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        for path, body in bodies:
            said = ask(gateway, path, body)
            assert (path, said.status) in ((path, 400), (path, 413)), said.body
            assert len(said.body) < 4096
            assert ask(gateway, "/live").status == 200
        assert resident_bytes("VmHWM") - before < MOST_GROWTH_BYTES


def test_a_model_whose_name_would_write_on_a_terminal_is_refused_at_the_start() -> None:
    profile = replace(PROFILES["tiny"], name="strange", model=STRANGE)
    with (
        SimulatedEndpoint(profile) as endpoint,
        pytest.raises(PipelineError, match="E242") as caught,
        gateway_for(endpoint.url),
    ):
        pass
    assert str(caught.value).isprintable()


def test_strange_names_stay_on_their_line() -> None:
    """What a client calls a model or a job is said to nobody, or in JSON."""
    with gateway_for("http://127.0.0.1:9", models=(MODEL,)) as gateway:
        heard = [ask(gateway, CHAT, chat() | {"model": STRANGE}), ask(gateway, "/v1/models/%1b%5b31m")]
        heard += [ask(gateway, CHAT, chat(), X_SAGE_Job=name) for name in ("\x1b[31m", "a\tb", "x y", "\x7f")]
        assert [said.status for said in heard] == [404, 404, 400, 400, 400, 400]
        heard += [ask(gateway, "/v1/models"), ask(gateway, "/metrics")]
        for said in heard:
            assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", said.body)
        assert all(re.match(rb"#|[a-z_]+(\{.*\})? [-+0-9.einfa]+$", line) for line in heard[-1].body.splitlines())
