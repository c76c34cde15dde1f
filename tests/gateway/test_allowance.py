"""Rates and budgets: their laws in virtual time, and that they hold over HTTP."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from behind import CHAT, MODEL, ask, chat, gateway_for, keyed, used
from hypothesis import given
from hypothesis import strategies as st

from conftest import Wait
from patience import DEADLINE_S
from sage.gateway import KeyConfig, TenantConfig
from sage.gateway.allowance import Allowances, Bucket, Moment, Need, period_begins, period_ends
from sage.gateway.faults import Refusal
from sage.llm.simulated import SimulatedEndpoint

NOTHING: dict[Any, Any] = {"hour": {}, "day": {}, "month": {}, "ever": {}}
amounts = st.floats(0.0, 200.0)


@given(st.lists(st.tuples(st.floats(0, 30), amounts), max_size=40))
def test_a_rate_is_kept_and_its_wait_is_true(steps: list[tuple[float, float]]) -> None:
    bucket, now, passed = Bucket(100), 0.0, 0.0
    for later_s, amount in steps:
        now += later_s
        wait_s = bucket.wait_s(amount, now)
        if wait_s:
            assert bucket.wait_s(amount, now + wait_s * 0.9) > 0
            now += wait_s
            assert bucket.wait_s(amount, now) == pytest.approx(0, abs=1e-6)
        bucket.take(amount, now)
        passed += amount
        assert passed <= 100 + now * 100 / 60 + 200 + 1e-6, "what is saved up, what came, and the debt of the last"


def moment(at: float) -> Moment:
    return Moment(at, at)


def allowances(*keys: KeyConfig, tenant: tuple[TenantConfig, ...] = (), spent: Any = NOTHING) -> Allowances:
    return Allowances(keys, tenant, spent, 0.0)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60), st.booleans()), max_size=60))
def test_a_budget_is_never_exceeded(steps: list[tuple[int, int, bool]]) -> None:
    """Each request uses as much as it reserved, or less, and ends before or after others begin."""
    entries = [keyed(name, tenant="t")[1] for name in ("a", "b")]
    shared = TenantConfig(name="t", budget_tokens=200, budget_per="ever")
    rates = allowances(*entries, tenant=(shared,))
    running: list[tuple[Any, int, int]] = []
    spent = 0
    for i, (most, uses, ends) in enumerate(steps):
        reserved = sum(most for _, most, _ in running)
        refused = None
        try:
            running.append((rates.reserve("ab"[i % 2], Need(most, most), moment(i)), most, min(uses, most)))
        except Refusal as refusal:
            refused = refusal
        assert (refused is not None) == (spent + reserved + most > 200)
        if refused is not None:
            assert (refused.code == "insufficient_quota") == (spent + most > 200)
        if ends and running:
            reservation, _, used_tokens = running.pop(0)
            reservation.settle(used_tokens, moment(i))
            spent += used_tokens
        assert spent <= 200


def test_a_budget_begins_anew_and_says_when() -> None:
    rates = allowances(keyed("a", budget_tokens=10, budget_per="hour")[1])
    rates.reserve("a", Need(10, 10), moment(0)).settle(10, moment(1))
    with pytest.raises(Refusal) as refused:
        rates.reserve("a", Need(1, 1), moment(600))
    assert (refused.value.code, refused.value.headers["Retry-After"]) == ("insufficient_quota", "3000")
    rates.reserve("a", Need(10, 10), moment(3600))


def test_what_was_spent_before_the_start_counts() -> None:
    spent = NOTHING | {"day": {"a": 9, "b": 5}}
    rates = allowances(keyed("a", budget_tokens=10, budget_per="day")[1], spent=spent)
    rates.reserve("a", Need(1, 1), moment(0)).settle(0, moment(0))
    with pytest.raises(Refusal):
        rates.reserve("a", Need(2, 2), moment(0))


def test_who_is_refused_by_the_tenant_has_used_nothing_of_the_key() -> None:
    key = keyed("a", tenant="t", requests_per_minute=60)[1]
    rates = allowances(key, tenant=(TenantConfig(name="t", tokens_per_minute=60),))
    rates.reserve("a", Need(60, 60), moment(0))
    for _ in range(100):
        with pytest.raises(Refusal) as refused:
            rates.reserve("a", Need(30, 30), moment(0))
        assert (refused.value.param, refused.value.headers["Retry-After"]) == ("tokens_per_minute", "30")


@given(st.integers(0, 4_000_000_000))
def test_periods_follow_one_another(wall_s: int) -> None:
    for per in ("hour", "day", "month"):
        begins_s, ends_s = period_begins(per, wall_s), period_ends(per, wall_s)
        assert ends_s is not None
        assert begins_s <= wall_s < ends_s == period_begins(per, ends_s)


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny") as running:
        yield running


def test_a_budget_holds_against_requests_at_once_and_after_a_restart(endpoint: SimulatedEndpoint) -> None:
    bearer, entry = keyed("alice", budget_tokens=2000, budget_per="ever")
    statuses: list[tuple[int, str]] = []

    def client() -> None:
        for _ in range(4):
            said = ask(gateway, CHAT, chat(max_tokens=50, ignore_eos=True), Authorization=bearer)
            statuses.append((said.status, "" if said.status == 200 else said.error["code"]))

    with gateway_for(endpoint.url, key=(entry,)) as gateway:
        threads = [threading.Thread(target=client) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {status for status, _ in statuses} == {200, 429}
    (found,) = used(gateway)
    assert 1000 < found.tokens <= 2000
    with gateway_for(endpoint.url, key=(entry,)) as gateway:
        asked = chat(max_tokens=2000 - found.tokens)
        assert ask(gateway, CHAT, asked, Authorization=bearer).error["code"] == "insufficient_quota"


def test_an_answer_without_a_limit_gets_one_where_a_budget_has_to_hold(endpoint: SimulatedEndpoint) -> None:
    bearer, entry = keyed("alice", budget_tokens=2000)
    with gateway_for(endpoint.url, key=(entry,), longest_answer_tokens=7) as gateway:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
        assert ask(gateway, CHAT, asked, Authorization=bearer).json["usage"]["completion_tokens"] == 7
        asked = {"model": MODEL, "prompt": "Hi", "ignore_eos": True}
        assert ask(gateway, "/v1/completions", asked, Authorization=bearer).json["usage"]["completion_tokens"] == 7
        assert ask(gateway, "/v1/embeddings", {"model": MODEL, "input": "Hi"}, Authorization=bearer).status == 200


def test_a_key_has_so_many_requests_at_once(endpoint: SimulatedEndpoint, wait_until: Wait) -> None:
    bearer, entry = keyed("alice", max_requests=1)
    endpoint.set_faults("drip=30*1")
    with gateway_for(endpoint.url, key=(entry,)) as gateway:
        connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=DEADLINE_S)
        connection.request("POST", CHAT, json.dumps(chat(stream=True)), {"Authorization": bearer})
        connection.getresponse().read(1)
        said = ask(gateway, CHAT, chat(), Authorization=bearer)
        assert (said.status, said.error["code"]) == (429, "too_many_requests")
        connection.close()
        wait_until(lambda: ask(gateway, CHAT, chat(), Authorization=bearer).status == 200)


def test_models_that_a_key_may_not_use_do_not_exist_for_it(endpoint: SimulatedEndpoint) -> None:
    bearer, entry = keyed("alice", models=("other",), tenant="t")
    with gateway_for(endpoint.url, key=(entry,), tenant=(TenantConfig(name="t"),)) as gateway:
        assert ask(gateway, CHAT, chat(), Authorization=bearer).error["code"] == "model_not_found"
        assert ask(gateway, "/v1/models", Authorization=bearer).json["data"] == []
        assert ask(gateway, f"/v1/models/{MODEL}", Authorization=bearer).status == 404
