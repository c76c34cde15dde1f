"""Answers that are given again: the same to the byte, to their tenant alone, and not paid for."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from behind import CHAT, MODEL, Said, ask, chat, gateway_for, keyed, used
from hypothesis import given
from hypothesis import strategies as st

from sage.gateway import Gateway, Ledger, Used
from sage.gateway.cache import LARGEST_SHARE, OVERHEAD_BYTES, AnswerCache, Kept
from sage.llm.simulated import SimulatedEndpoint

USE = {"X_SAGE_Cache": "use"}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url, cache_bytes=1 << 20) as running:
        yield running


def said_of(said: Said) -> str | None:
    assert said.status == 200
    return said.headers["X-SAGE-Cache"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_answer_is_given_again_and_not_paid_for(stream: bool) -> None:
    asked = chat(temperature=0, stream=stream)
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url, cache_bytes=1 << 20) as gateway:
        first, again = ask(gateway, CHAT, asked, **USE), ask(gateway, CHAT, dict(reversed(asked.items())), **USE)
    assert (said_of(first), said_of(again)) == ("MISS", "HIT")
    assert again.body == first.body
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    (found,) = used(gateway)
    assert (found.requests, found.failed, found.reused_tokens) == (2, 0, found.tokens)


def test_what_may_differ_the_next_time_is_not_kept(gateway: Gateway) -> None:
    for options in ({}, {"temperature": 0.1}, {"temperature": 0.5, "seed": None}):
        for _ in range(2):
            assert said_of(ask(gateway, CHAT, chat(**options), **USE)) == "SKIP"
    assert said_of(ask(gateway, CHAT, chat(temperature=0))) is None
    assert said_of(ask(gateway, CHAT, chat(temperature=0), **USE)) == "MISS", "nobody asked for it to be kept"
    assert said_of(ask(gateway, CHAT, chat(seed=3), **USE)) == "MISS"
    assert said_of(ask(gateway, CHAT, chat(seed=4), **USE)) == "MISS"
    assert ask(gateway, CHAT, chat(), X_SAGE_Cache="yes").error["param"] == "X-SAGE-Cache"
    embedding = {"model": MODEL, "input": "x"}
    assert [said_of(ask(gateway, "/v1/embeddings", embedding, **USE)) for _ in range(2)] == ["MISS", "HIT"]


def test_tenants_are_never_mixed_and_half_an_answer_is_never_kept() -> None:
    (alice, a), (bob, b), (ann, c) = keyed("alice", tenant="x"), keyed("bob"), keyed("ann", tenant="x")
    with (
        SimulatedEndpoint("tiny", faults=["half*1"]) as endpoint,
        gateway_for(endpoint.url, key=(a, b, c), cache_bytes=1 << 20) as gateway,
    ):
        asked = chat(seed=1, stream=True)
        assert b"error" in ask(gateway, CHAT, asked, Authorization=alice, **USE).body
        said = [said_of(ask(gateway, CHAT, asked, Authorization=key, **USE)) for key in (alice, bob, ann)]
        assert said == ["MISS", "MISS", "HIT"]


def test_a_gateway_without_a_cache_says_so() -> None:
    with SimulatedEndpoint("tiny") as endpoint, gateway_for(endpoint.url) as gateway:
        assert said_of(ask(gateway, CHAT, chat(temperature=0), **USE)) == "SKIP"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000), st.booleans())))
def test_it_never_grows_beyond_its_bound_and_forgets_in_time(steps: list[tuple[int, int, bool]]) -> None:
    most, ttl_s = 16_384, 5.0
    cache = AnswerCache(most, ttl_s)
    latest: dict[bytes, tuple[float, bytes]] = {}
    for now, (number, size, put) in enumerate(steps):
        key = bytes([number])
        if put:
            copy = cache.copy()
            copy.add(bytes(size))
            assert (copy.whole is None) == (size > most // LARGEST_SHARE)
            if copy.whole is not None:
                cache.put(key, Kept("text/plain", copy.whole, 1), now)
                latest[key] = (now, copy.whole)
        found = cache.get(key, now)
        if found is not None:
            at, body = latest[key]
            assert found.body == body
            assert now < at + ttl_s
        assert cache.size_bytes <= most + OVERHEAD_BYTES


def test_a_ledger_from_before_there_was_a_cache_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    ledger: Any = Ledger(path)
    ledger.add([Used("a", "", "", "m", prompt_tokens=3)])
    ledger.close()
    base = sqlite3.connect(path)
    base.execute("ALTER TABLE used DROP COLUMN reused_tokens")
    base.close()
    ledger = Ledger(path)
    ledger.add([Used("a", "", "", "m", reused_tokens=5)])
    assert ledger.totals() == [Used("a", "", "", "m", 2, prompt_tokens=3, reused_tokens=5)]
    ledger.close()
