"""What goes through the gateway, over real HTTP: passed on untouched, whatever happens to it."""

import http.client
import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from behind import CHAT, MODEL, ask, chat, gateway_for, used

from conftest import Wait
from endpoints import MisbehavingEndpoint, canary, closed_port_url
from patience import DEADLINE_S
from sage.errors import EndpointError
from sage.gateway import health
from sage.llm.simulated import SimulatedEndpoint

TINY = "tiny"


def test_a_chat_and_its_usage() -> None:
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(), X_SAGE_Job="nightly", X_SAGE_Step="summarise")
        direct = said.json["usage"]
        assert said.status == 200
        for name in ("Admission", "Queue", "First-Byte", "Endpoint"):
            assert float(said.headers[f"X-SAGE-{name}-Ms"]) >= 0
        assert float(said.headers["X-SAGE-Endpoint-Ms"]) >= float(said.headers["X-SAGE-First-Byte-Ms"]) > 0
    (found,) = used(gateway, "key", "job", "step", "model")
    assert found[:4] == ("", "nightly", "summarise", MODEL)
    assert found[4:] == (1, 0, direct["prompt_tokens"], direct["completion_tokens"], 0, 0)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_shows_the_usage_to_who_asked_and_counts_it_anyway(wanted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(stream=True, **options))
        assert said.body.endswith(b"data: [DONE]\n\n")
        shown = [event for event in said.events if event.get("usage")]
        assert len(shown) == wanted
        assert all(event["choices"] for event in said.events if event not in shown)
    (found,) = used(gateway)
    assert (found.requests, found.failed, found.completion_tokens, found.estimated_tokens) == (1, 0, 5, 0)


def test_what_the_gateway_does_not_know_passes_through() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(tools=tools, tool_choice="required", n=2, logprobs=False, seed=3))
        assert [choice["finish_reason"] for choice in said.json["choices"]] == ["tool_calls"] * 2
        said = ask(gateway, "/v1/completions", {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 3})
        assert len(said.json["choices"]) == 2
        said = ask(gateway, "/v1/embeddings", {"model": MODEL, "input": ["a", "b"]})
        assert len(said.json["data"]) == 2
        said = ask(gateway, "/v1/models")
        assert [card["id"] for card in said.json["data"]] == [MODEL]
        assert ask(gateway, f"/v1/models/{MODEL}").json["id"] == MODEL


def test_what_the_endpoint_says_of_a_bad_request_reaches_the_client() -> None:
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(temperature=7))
        assert said.status == 400
        assert "temperature" in said.json["error"]["message"]


def test_an_endpoint_that_fails_is_left_for_another() -> None:
    with (
        SimulatedEndpoint(TINY, faults=["500"]) as ill,
        SimulatedEndpoint(TINY) as well,
        gateway_for(ill.url, well.url) as gateway,
    ):
        assert [ask(gateway, CHAT, chat()).status for _ in range(4)] == [200] * 4


def test_a_429_parks_the_request_and_the_client_hears_nothing_of_it() -> None:
    with SimulatedEndpoint(TINY, faults=["429=0.05*2"]) as endpoint, gateway_for(endpoint.url) as gateway:
        assert ask(gateway, CHAT, chat()).status == 200


@pytest.mark.parametrize(("fault", "status"), [("500", 502), ("reset", 502), ("garbage", 200), ("401", 502)])
def test_what_the_endpoint_gets_wrong_is_not_the_clients_fault(fault: str, status: int) -> None:
    with SimulatedEndpoint(TINY, faults=[fault]) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat())
        assert said.status == status
        if status != 200:
            assert endpoint.url not in said.error["message"]


@pytest.mark.parametrize("fault", ["half", "cut"])
def test_half_a_stream_ends_with_an_error_and_without_done(fault: str) -> None:
    with SimulatedEndpoint(TINY, faults=[fault]) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(stream=True))
        assert said.status == 200
        assert said.events[-1]["error"]["code"] == "endpoint_E730"
        assert b"[DONE]" not in said.body
    (found,) = used(gateway)
    assert (found.failed, found.completion_tokens) == (1, 0)
    assert found.estimated_tokens > 0


def test_a_client_that_goes_away_frees_its_place(wait_until: Wait) -> None:
    with SimulatedEndpoint(TINY, faults=["drip=30"]) as endpoint, gateway_for(endpoint.url) as gateway:
        endpoint.set_faults()
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=DEADLINE_S)
        connection.request("POST", CHAT, json.dumps(chat(stream=True, max_tokens=3000, ignore_eos=True)))
        connection.getresponse().read(10)
        assert endpoint.snapshot().running == 1
        connection.close()
        wait_until(lambda: endpoint.snapshot().running == 0)
    (found,) = used(gateway)
    assert (found.requests, found.failed) == (1, 1)


def test_a_closed_client_that_waited_is_never_sent(wait_until: Wait) -> None:
    with SimulatedEndpoint(TINY, faults=["503=30"]) as endpoint, gateway_for(endpoint.url) as gateway:
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=DEADLINE_S)
        connection.request("POST", CHAT, json.dumps(chat()))
        wait_until(lambda: "sage_gateway_waiting_requests 1" in _metrics(gateway))
        connection.close()
        wait_until(lambda: "sage_gateway_waiting_requests 0" in _metrics(gateway))


def test_a_request_that_would_wait_longer_than_it_may_is_turned_away_at_once() -> None:
    with SimulatedEndpoint(TINY, faults=["503=30"]) as endpoint, gateway_for(endpoint.url) as gateway:
        said = ask(gateway, CHAT, chat(), X_SAGE_Deadline="0.2")
        assert (said.status, said.error["code"]) == (503, "no_room"), "the first has to find out"
        said = ask(gateway, CHAT, chat(), X_SAGE_Deadline="5")
        assert (said.status, said.error["code"]) == (503, "no_room"), "there is no queue: the endpoint takes nothing"
        assert 20 <= int(said.headers["Retry-After"]) <= 28


def test_health_means_that_requests_get_through() -> None:
    with gateway_for(closed_port_url(), models=(MODEL,), max_wait_s=0.1) as gateway:
        assert ask(gateway, "/live").status == 200
        assert ask(gateway, "/health").status == 200
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        endpoint.set_faults("500")
        for _ in range(5):
            ask(gateway, CHAT, chat())
        said = ask(gateway, "/health")
        assert (said.status, said.json["troubles"]) == (503, ["a model has no endpoint that works"])


def test_health_fails_while_requests_wait_and_nothing_moves(wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STUCK_S", 0.0)
    with SimulatedEndpoint(TINY, faults=["503=30*1"]) as endpoint, gateway_for(endpoint.url) as gateway:
        assert ask(gateway, "/health").status == 200
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=DEADLINE_S)
        connection.request("POST", CHAT, json.dumps(chat()))
        wait_until(lambda: ask(gateway, "/health").status == 503)
        assert "none was sent or ended" in ask(gateway, "/health").json["troubles"][0]
        connection.close()
        wait_until(lambda: ask(gateway, "/health").status == 200)


def test_health_fails_while_usage_cannot_be_written_and_nothing_of_it_is_lost(wait_until: Wait) -> None:
    with SimulatedEndpoint(TINY) as endpoint, gateway_for(endpoint.url) as gateway:
        base = sqlite3.connect(gateway.usage_file)
        base.execute("ALTER TABLE used RENAME TO elsewhere")
        assert ask(gateway, CHAT, chat()).status == 200
        wait_until(lambda: ask(gateway, "/health").status == 503)
        assert ask(gateway, "/health").json["troubles"] == ["usage cannot be written down"]
        base.execute("ALTER TABLE elsewhere RENAME TO used")
        base.close()
        assert ask(gateway, CHAT, chat()).status == 200
        wait_until(lambda: ask(gateway, "/health").status == 200)
    (found,) = used(gateway)
    assert found.requests == 2


def test_what_is_in_flight_when_it_ends_is_answered_whole(wait_until: Wait) -> None:
    with SimulatedEndpoint(TINY, faults=["drip=0.02"]) as endpoint, ThreadPoolExecutor(1) as client:
        with gateway_for(endpoint.url, drain_s=50) as gateway:
            answer = client.submit(ask, gateway, CHAT, chat(stream=True, max_tokens=20, ignore_eos=True))
            wait_until(lambda: re.search(r'in_flight\{endpoint="[^"]*"\} 1\.0', _metrics(gateway)))
        assert answer.result().body.endswith(b"data: [DONE]\n\n")
    (found,) = used(gateway)
    assert (found.failed, found.completion_tokens) == (0, 20)


def test_an_endpoint_that_redirects_is_not_followed() -> None:
    with canary() as (url, visitors), MisbehavingEndpoint() as endpoint, gateway_for(endpoint.url) as gateway:
        endpoint.script([f"redirect:{url}"])
        said = ask(gateway, CHAT, chat() | {"model": "test-model"}, Authorization="Bearer secret")
        assert (said.status, visitors) == (502, [])
        (seen,) = endpoint.requests
        assert "Authorization" not in seen.headers, "the client's key is its own"


def test_an_endpoint_that_cannot_be_asked_for_its_models_is_named() -> None:
    with pytest.raises(EndpointError, match=r"E701 .*: got Connection refused"), gateway_for(closed_port_url()):
        pass


def _metrics(gateway: Any) -> str:
    return ask(gateway, "/metrics").body.decode()
