"""The limit and the breaker together, while an endpoint fails and after it: in virtual time, 16 seats."""

import pytest
from tenants import Tenant, Trouble, World, steady

from sage.llm.balancer import Outcome

SEATS, STEP_S, TOKENS = 16, 0.04, 32
FULL = SEATS / STEP_S * TOKENS / (TOKENS + 1)
"""Tokens a second; one step is for the prompt."""
BEGINS = 40.0


def troubled(trouble: Trouble, seconds: float, after_s: float) -> tuple[World, Tenant]:
    """For so many seconds; and then it is well for `after_s`."""
    tenant = Tenant("batch", 100, TOKENS)
    world = World(steady(STEP_S, SEATS), tenant, jitter=0.5)
    world.run(BEGINS)
    world.trouble = trouble
    world.run(BEGINS + seconds)
    world.trouble = None
    world.run(BEGINS + seconds + after_s)
    return world, tenant


def limit(world: World) -> int:
    return world.desk.snapshot(world.now)[0].limit.limit


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.PARKED])
def test_a_burst_of_refusals_is_over_a_few_seconds_after_it(outcome: Outcome) -> None:
    """Every request for 2 s: 500s, or 429s."""
    world, tenant = troubled(Trouble(outcome), 2.0, 40.0)
    assert tenant.tokens_per_s(BEGINS + 2 + 5, world.now) > 0.9 * FULL
    assert SEATS - 2 <= limit(world) <= 2 * SEATS


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.AWAY])
def test_after_an_outage_of_two_minutes_it_goes_on_by_itself(outcome: Outcome) -> None:
    """The endpoint is asked again 30 s after its end at the latest; few requests were sent into the outage."""
    tenant = Tenant("batch", 100, TOKENS)
    world = World(steady(STEP_S, SEATS), tenant, jitter=0.5)
    world.run(BEGINS)
    world.trouble = Trouble(outcome)
    world.run(BEGINS + 5)  # what was in flight when it began is answered yet
    before = world.sent
    world.run(BEGINS + 120)
    assert 2 <= world.sent - before <= 12
    world.trouble = None
    world.run(BEGINS + 200)
    assert tenant.tokens_per_s(BEGINS + 160, BEGINS + 200) > 0.9 * FULL


def test_requests_that_hang_hold_up_only_their_own_places() -> None:
    """Half-open: of three requests in a hundred nothing is heard for 20 s. Afterwards all is as before."""
    world, tenant = troubled(Trouble(Outcome.FAILED, share=0.03, after_s=20.0), 60.0, 60.0)
    assert tenant.tokens_per_s(BEGINS + 20, BEGINS + 60) > 0.6 * FULL
    assert tenant.tokens_per_s(BEGINS + 90, world.now) > 0.9 * FULL
    assert SEATS - 2 <= limit(world) <= 2 * SEATS


def test_some_failures_among_many_answers_are_no_reason_to_stop() -> None:
    world, tenant = troubled(Trouble(Outcome.FAILED, share=0.05), 60.0, 1.0)
    assert tenant.tokens_per_s(BEGINS + 10, BEGINS + 60) > 0.85 * FULL
    assert limit(world) >= SEATS - 3
