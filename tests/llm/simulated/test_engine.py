"""The model of time in virtual time: what must hold for every load, and what vLLM is known to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.errors import PipelineError
from sage.llm.simulated import PROFILES, Engine, Profile, Request, Step, profile_named

TINY = PROFILES["tiny"]
TIGHT = replace(TINY, name="tight", blocks=40, max_seqs=6, max_batched_tokens=64, max_model_len=320)
"""A cache of 640 tokens: two long sequences fill it, so that sequences are preempted all the time."""


def advanced(engine: Engine, at: float) -> Step:
    step = engine.advance(at)
    assert step is not None
    assert step.at == at
    return step


def drain(engine: Engine) -> list[Step]:
    steps = []
    while (at := engine.next_event()) is not None:
        steps.append(advanced(engine, at))
        assert len(steps) < 100_000, "it does not end"
    return steps


def loads() -> st.SearchStrategy[list[tuple[float, Request, float | None]]]:
    """Arrival, request, and for some the time of their cancellation; prompts share their beginnings."""
    one = st.tuples(
        st.floats(0, 0.2), st.integers(1, 160), st.integers(0, 160), st.integers(0, 3), st.integers(0, 2),
        st.none() | st.floats(0, 0.3),
    )  # fmt: skip

    def built(rows: list[tuple[float, int, int, int, int, float | None]]) -> list[tuple[float, Request, float | None]]:
        return [
            (
                arrival,
                Request(number, prompt, output, tuple(family * 100 + i for i in range(prompt // 16)), priority),
                None if cancel is None else arrival + cancel,
            )
            for number, (arrival, prompt, output, family, priority, cancel) in enumerate(rows)
        ]

    return st.lists(one, min_size=1, max_size=30).map(built)


def play(
    profile: Profile,
    load: Sequence[tuple[float, Request, float | None]],
    capacity: float = 1.0,
    changes: Sequence[tuple[float, float]] = (),
) -> list[Step]:
    """All steps of a load, with what must hold at every moment checked on the way."""
    engine = Engine(profile, seed=1)
    engine.set_capacity(capacity)
    actions: list[tuple[float, int, Any]] = [(at, 0, request) for at, request, _ in load]
    actions += [(at, 2, factor) for at, factor in changes]
    actions += [(cancel, 1, request) for _, request, cancel in load if cancel is not None]
    cancelled: set[object] = set()
    steps: list[Step] = []
    produced = {request.id: 0 for _, request, _ in load}

    def until(now: float) -> None:
        while (at := engine.next_event()) is not None and at <= now:
            step = advanced(engine, at)
            steps.append(step)
            for sequence in step.tokens:
                produced[sequence.request.id] += 1
                assert sequence.produced == produced[sequence.request.id]
            snapshot = engine.snapshot()
            assert 0 <= snapshot.kv_usage <= 1
            assert changes or snapshot.running <= profile.max_seqs * capacity

    for now, kind, what in sorted(actions, key=lambda action: action[:2]):
        until(now)
        if kind == 0:
            engine.submit(what, now)
        elif kind == 2:
            engine.set_capacity(what)
        elif engine.cancel(what.id, now):
            cancelled.add(what.id)
    until(math.inf)
    snapshot = engine.snapshot()
    assert (snapshot.running, snapshot.waiting, snapshot.kv_usage) == (0, 0, 0)
    finished = [sequence.request.id for step in steps for sequence in step.finished]
    assert len(finished) == len(set(finished))
    assert set(finished) | cancelled == set(produced)
    assert not set(finished) & cancelled
    for _, request, _ in load:
        assert request.id in cancelled or produced[request.id] == request.output_tokens
    assert snapshot.output_tokens == sum(produced.values())
    assert snapshot.preemptions == sum(len(step.preempted) for step in steps)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    return steps


@given(loads(), st.sampled_from([TINY, TIGHT]), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=60)
def test_every_request_ends_and_no_token_is_lost(
    load: list[tuple[float, Request, float | None]], profile: Profile, capacity: float
) -> None:
    play(profile, load, capacity)


@given(loads(), st.lists(st.tuples(st.floats(0, 0.3), st.floats(0.1, 4)), max_size=5))
@settings(max_examples=30)
def test_changes_of_capacity_lose_nothing(
    load: list[tuple[float, Request, float | None]], changes: list[tuple[float, float]]
) -> None:
    play(TIGHT, load, changes=changes)


@given(loads())
@settings(max_examples=15)
def test_the_same_load_takes_the_same_time(load: list[tuple[float, Request, float | None]]) -> None:
    jittery = replace(TIGHT, jitter=0.1)
    assert [step.at for step in play(jittery, load)] == [step.at for step in play(jittery, load)]


@given(st.lists(st.tuples(st.integers(1, 160), st.integers(1, 100)), min_size=2, max_size=30))
@settings(max_examples=30)
def test_first_come_first_served(sizes: list[tuple[int, int]]) -> None:
    engine = Engine(TIGHT)
    for number, (prompt, output) in enumerate(sizes):
        engine.submit(Request(number, prompt, output), 0.0)
    ended = [sequence for step in drain(engine) for sequence in step.finished]
    begun = [sequence.scheduled_at for sequence in sorted(ended, key=lambda sequence: sequence.request.id)]
    assert begun == sorted(begun)


def test_a_lower_priority_value_goes_first() -> None:
    engine = Engine(replace(TINY, max_seqs=1))
    for number, priority in enumerate([0, 5, 5, -1]):
        engine.submit(Request(number, 10, 3, priority=priority), 0.0)
    assert [s.request.id for step in drain(engine) for s in step.finished] == [0, 3, 1, 2]


def test_times_of_one_request_are_the_arithmetic_of_its_profile() -> None:
    engine = Engine(TINY)
    engine.submit(Request("a", 1000, 3), 5.0)
    steps = drain(engine)
    first = TINY.cost_s(512, 0, 512 * 256, 1)
    second = TINY.cost_s(488, 0, 488 * (512 + 244), 1)
    assert steps[1].at == pytest.approx(5.0 + first + second)
    assert [len(step.tokens) for step in steps] == [0, 1, 1, 1]
    sequence = steps[-1].finished[0]
    assert (sequence.arrived_at, sequence.scheduled_at, sequence.first_token_at) == (5.0, 5.0, steps[1].at)
    assert steps[2].at - steps[1].at == pytest.approx(TINY.cost_s(1, 1000, 0, 1))
    assert steps[2].gaps == {steps[2].at - steps[1].at: 1}


def test_a_prompt_is_computed_in_chunks_between_the_tokens_of_others() -> None:
    engine = Engine(TINY)
    engine.submit(Request("decodes", 10, 50), 0.0)
    at = engine.next_event()
    assert at is not None
    engine.advance(at)
    engine.submit(Request("long", 2000, 1), at)
    steps = drain(engine)
    arrived = next(i for i, step in enumerate(steps) if any(s.request.id == "long" for s in step.tokens))
    assert arrived == 4, "one step was under way; then 4 x 511 tokens beside the one that decodes"
    assert all(any(s.request.id == "decodes" for s in step.tokens) for step in steps[:49])


def test_cancelling_frees_the_place_at_once() -> None:
    engine = Engine(replace(TINY, max_seqs=1))
    engine.submit(Request("first", 100, 1000), 0.0)
    engine.submit(Request("second", 100, 1), 0.0)
    assert engine.snapshot().running == 1
    assert engine.cancel("first", 0.0005)
    snapshot = engine.snapshot()
    assert (snapshot.running, snapshot.waiting, snapshot.kv_usage) == (0, 1, 0)
    assert not engine.cancel("first", 0.0005)
    steps = drain(engine)
    assert [s.request.id for step in steps for s in step.finished] == ["second"]
    assert len(steps) == 2, "the step under way goes to its end; the next one is the other's"


def test_a_shared_prefix_is_computed_once() -> None:
    engine = Engine(TINY)
    engine.submit(Request("a", 160, 1, tuple(range(10))), 0.0)
    drain(engine)
    engine.submit(Request("b", 170, 1, tuple(range(10))), 1.0)
    engine.submit(Request("c", 160, 1, tuple(range(10))), 1.0)
    cached = {s.request.id: s.cached for step in drain(engine) for s in step.finished}
    assert cached == {"b": 160, "c": 144}, "of c the last token has to be computed again, and with it its block"
    snapshot = engine.snapshot()
    assert (snapshot.cache_queries, snapshot.cache_hits) == (490, 304)


def test_what_was_used_longest_ago_is_evicted_first() -> None:
    engine = Engine(replace(TINY, blocks=20, max_model_len=320))
    for now, (name, first) in enumerate([("a", 0), ("b", 100), ("c", 200)]):
        engine.submit(Request(name, 128, 1, tuple(range(first, first + 8))), float(now))
        drain(engine)
    engine.submit(Request("c2", 128, 1, tuple(range(200, 208))), 3.0)
    engine.submit(Request("a2", 128, 1, tuple(range(8))), 3.0)
    cached = {s.request.id: s.cached for step in drain(engine) for s in step.finished}
    assert cached["c2"] == 112
    assert cached["a2"] < 112


def test_a_full_cache_preempts_the_last_one_which_computes_again() -> None:
    engine = Engine(TIGHT)
    for number in range(3):
        engine.submit(Request(number, 60, 250), 0.0)
    steps = drain(engine)
    preempted = [s.request.id for step in steps for s in step.preempted]
    assert preempted
    assert 0 not in preempted
    assert next(s.request.id for step in steps for s in step.finished) == 0


def test_capacity_is_that_many_gpus() -> None:
    def seconds(capacity: float, requests: int) -> float:
        engine = Engine(replace(PROFILES["peaked"], jitter=0.0))
        engine.set_capacity(capacity)
        for number in range(requests):
            engine.submit(Request(number, 1, 50), 0.0)
        return drain(engine)[-1].at

    assert seconds(0.5, 8) == pytest.approx(seconds(1, 16))
    assert seconds(2, 32) == pytest.approx(seconds(1, 16))


def test_the_peaked_profile_peaks_inside_and_falls_to_half() -> None:
    profile = PROFILES["peaked"]
    rates = {n: n / profile.cost_s(n, 0, 0, n) for n in range(1, 65)}
    best = max(rates, key=lambda n: rates[n])
    assert 16 <= best <= 20
    assert rates[34] < 0.55 * rates[best]


def test_what_cannot_be() -> None:
    engine = Engine(TINY)
    with pytest.raises(ValueError, match="tokens"):
        engine.submit(Request("a", 4096, 1), 0.0)
    with pytest.raises(ValueError, match="tokens"):
        engine.submit(Request("a", 0, 1), 0.0)
    engine.submit(Request("a", 1, 1), 0.0)
    with pytest.raises(ValueError, match="already"):
        engine.submit(Request("a", 1, 1), 0.0)
    with pytest.raises(ValueError, match="advance"):
        engine.submit(Request("b", 1, 1), 1.0)
    with pytest.raises(ValueError, match="capacity"):
        engine.set_capacity(0)
    with pytest.raises(PipelineError, match="E242"):
        replace(TINY, blocks=10)
    with pytest.raises(PipelineError, match="tiny"):
        profile_named("b300")
