"""Whose turn it is, over HTTP: bands, tenants, models and kinds of requests, on one endpoint and on several."""

import http.client
import json
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from behind import CHAT, MODEL, ask, chat, gateway_for, keyed, used

from conftest import Wait
from endpoints import MODEL as SCRIPTED
from endpoints import MisbehavingEndpoint
from patience import DEADLINE_S
from sage.gateway import Gateway
from sage.llm.simulated import PROFILES, SimulatedEndpoint

EACH = 20
"""Requests of each kind."""


def asked(text: str, **options: Any) -> dict[str, Any]:
    return chat(text, **options) | {"model": SCRIPTED}


@contextmanager
def occupied(gateway: Gateway, endpoint: MisbehavingEndpoint, wait_until: Wait, key: str, root: str) -> Iterator[None]:
    """Every place of the endpoint is taken until the end of the block, as many as it may have at that moment."""
    with ExitStack() as holders:
        while not waiting(gateway, root):
            endpoint.script(["stop:1"])
            holder = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=DEADLINE_S)
            holders.callback(holder.close)
            sent = len(endpoint.requests)
            holder.request("POST", CHAT, json.dumps(asked("hold", stream=True)), {"Authorization": key})
            wait_until(lambda sent=sent: len(endpoint.requests) > sent or waiting(gateway, root))
        holder.close()
        wait_until(lambda: not waiting(gateway, root))
        endpoint.drop_script()
        yield


def order_of_arrival(endpoint: MisbehavingEndpoint) -> list[str]:
    texts = [seen.body["messages"][0]["content"] for seen in endpoint.requests]
    return [text for text in texts if text != "hold"]


def waiting(gateway: Gateway, root: str) -> int:
    text = ask(gateway, "/metrics", Authorization=root).body.decode()
    return int(float(text.partition("\nsage_gateway_waiting_requests ")[2].split()[0]))


def have_come(gateway: Gateway, endpoint: MisbehavingEndpoint, count: int, root: str) -> bool:
    """They wait, but for those for which a place became free meanwhile."""
    return waiting(gateway, root) + len(order_of_arrival(endpoint)) == count


def place(arrived: list[str], who: str) -> float:
    """On average. Requests that are sent at the same moment arrive in any order."""
    return statistics.mean(i for i, other in enumerate(arrived) if other == who)


def test_a_higher_priority_goes_first_and_the_lower_one_is_served_too(wait_until: Wait) -> None:
    (low, a), (high, b) = keyed("low"), keyed("high", priority=1)
    root, c = keyed("root", scopes=("admin",))
    with (
        MisbehavingEndpoint() as endpoint,
        gateway_for(endpoint.url, key=(a, b, c)) as gateway,
        ThreadPoolExecutor(2 * EACH) as clients,
    ):
        with occupied(gateway, endpoint, wait_until, high, root):
            answers = [clients.submit(ask, gateway, CHAT, asked("low"), Authorization=low) for _ in range(EACH)]
            wait_until(lambda: have_come(gateway, endpoint, EACH, root))
            answers += [clients.submit(ask, gateway, CHAT, asked("high"), Authorization=high) for _ in range(EACH)]
            wait_until(lambda: have_come(gateway, endpoint, 2 * EACH, root))
        assert {answer.result().status for answer in answers} == {200}
    arrived = order_of_arrival(endpoint)
    assert Counter(arrived) == {"low": EACH, "high": EACH}
    assert place(arrived, "high") < place(arrived, "low"), "though they came last"


def test_tenants_take_turns_by_tokens_whoever_came_first(wait_until: Wait) -> None:
    keys = {name: keyed(name) for name in ("greedy", "modest")}
    root, admin = keyed("root", scopes=("admin",))
    with (
        MisbehavingEndpoint() as endpoint,
        gateway_for(endpoint.url, key=(*(entry for _, entry in keys.values()), admin)) as gateway,
        ThreadPoolExecutor(5 * EACH) as clients,
    ):
        with occupied(gateway, endpoint, wait_until, keys["greedy"][0], root):
            answers = [
                clients.submit(ask, gateway, CHAT, asked("greedy"), Authorization=keys["greedy"][0])
                for _ in range(4 * EACH)
            ]
            wait_until(lambda: have_come(gateway, endpoint, 4 * EACH, root))
            answers += [
                clients.submit(ask, gateway, CHAT, asked("modest"), Authorization=keys["modest"][0])
                for _ in range(EACH)
            ]
            wait_until(lambda: have_come(gateway, endpoint, 5 * EACH, root))
        assert {answer.result().status for answer in answers} == {200}
    arrived = order_of_arrival(endpoint)
    assert place(arrived, "modest") < place(arrived, "greedy"), "though four times as many came before them"


def test_models_go_to_their_own_endpoints_and_kinds_share_one() -> None:
    embedder = replace(PROFILES["tiny"], name="embedder", model="embedder")
    with (
        SimulatedEndpoint("tiny") as one,
        SimulatedEndpoint(embedder) as other,
        gateway_for(one.url, other.url) as both,
    ):
        with ThreadPoolExecutor(16) as clients:
            chats = [clients.submit(ask, both, CHAT, chat()) for _ in range(16)]
            for model in (MODEL, "embedder"):
                body = {"model": model, "input": ["a"] * 16}
                chats += [clients.submit(ask, both, "/v1/embeddings", body) for _ in range(8)]
        assert {answer.result().status for answer in chats} == {200}
        assert {answer.result().json["model"] for answer in chats} == {MODEL, "embedder"}
        assert {card["id"] for card in ask(both, "/v1/models").json["data"]} == {MODEL, "embedder"}
    by_model = {found.model: found.requests for found in used(both, "model")}
    assert by_model == {MODEL: 24, "embedder": 8}


def test_usage_is_exact_whatever_runs_at_once() -> None:
    """What the clients were told, and what is written down, by job and step."""
    told: Counter[tuple[str, str, str]] = Counter()
    lock = threading.Lock()

    def one(number: int) -> None:
        job, step, stream = f"job{number % 3}", f"step{number % 2}", number % 4 == 0
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"n": 1 + number % 2}
        said = ask(gateway, CHAT, chat(f"Question {number}", **options), X_SAGE_Job=job, X_SAGE_Step=step)
        usage = said.events[-1]["usage"] if stream else said.json["usage"]
        with lock:
            told[job, step, "prompt"] += usage["prompt_tokens"]
            told[job, step, "completion"] += usage["completion_tokens"]

    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as gateway, ThreadPoolExecutor(16) as clients:
        list(clients.map(one, range(96)))
    written = Counter[tuple[str, str, str]]()
    for found in used(gateway, "job", "step"):
        written[found.job, found.step, "prompt"] = found.prompt_tokens
        written[found.job, found.step, "completion"] = found.completion_tokens
        assert (found.failed, found.estimated_tokens) == (0, 0)
    assert written == told
