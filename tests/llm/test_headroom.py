"""A higher band beside a lower one that takes all the rest, in virtual time."""

import pytest
from tenants import Tenant, World, steady

from sage.llm.simulated import Profile

SEATS = 16
STEP_S = 0.04
SLOW = steady(STEP_S, SEATS)


def interactive() -> Tenant:
    return Tenant("interactive", 4, 32, band=1)


def alone(profile: Profile, jitter: float) -> float:
    tenant = interactive()
    World(profile, tenant, jitter=jitter).run(40)
    return tenant.p99(20)


@pytest.mark.parametrize(("jitter", "tells"), [(0.0, True), (0.5, True), (0.5, False)])
def test_the_higher_band_is_as_quick_as_alone(jitter: float, tells: bool) -> None:
    """The lower one alone would fill the endpoint, and then some. `tells`: the endpoint says how many wait in it."""
    high, low = interactive(), Tenant("batch", 120, 32)
    World(SLOW, high, low, tells=tells, jitter=jitter).run(150)
    assert high.p99(30) < 1.1 * alone(SLOW, jitter)
    together = high.tokens_per_s(30, 150) + low.tokens_per_s(30, 150)
    assert together > 0.9 * SEATS / STEP_S  # 32 steps of 33: one is for the prompt


def test_it_stays_so_when_the_endpoint_becomes_half_as_large_and_larger_again() -> None:
    high, low = interactive(), Tenant("batch", 120, 32)
    world = World(SLOW, high, low, jitter=0.5)
    world.run(40)
    world.engine.set_capacity(0.5)
    world.run(100)
    assert high.p99(60) < 1.1 * alone(SLOW, 0.5)
    world.engine.set_capacity(1.0)
    world.run(240)
    assert high.p99(140) < 1.2 * alone(SLOW, 0.5)
    assert high.tokens_per_s(180, 240) + low.tokens_per_s(180, 240) > 0.9 * SEATS / STEP_S


def test_under_endless_high_priority_the_lower_band_is_served_too() -> None:
    high, low = Tenant("interactive", 120, 32, band=1), Tenant("batch", 120, 32)
    World(SLOW, high, low).run(60)
    assert low.tokens_per_s(20, 60) / high.tokens_per_s(20, 60) == pytest.approx(0.05, abs=0.02)


def test_short_answers_are_not_taken_for_a_queue() -> None:
    """Of 64 that are answered in four steps each, some have always just arrived: a ceiling that was set while the limit
    was being found is raised when it is tried again, a minute later."""
    both = steady(0.05, 64)
    high, low = Tenant("interactive", 4, 4, band=1), Tenant("batch", 200, 4)
    World(both, high, low).run(160)
    without = Tenant("batch", 200, 4)
    World(both, without).run(160)
    together = high.tokens_per_s(80, 160) + low.tokens_per_s(80, 160)
    assert together > 0.9 * without.tokens_per_s(80, 160)
