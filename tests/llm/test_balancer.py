"""Whose turn it is, and at which endpoint, without any I/O; and the breaker."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.errors import EndpointBusy
from sage.llm.balancer import Balancer, Grant, Outcome
from sage.llm.breaker import FAILURES, Breaker
from sage.llm.turns import Ticket

HERE, THERE = "http://here/v1", "http://there/v1"


def balancer(*names: str, most: int = 1) -> Balancer:
    return Balancer(names or (HERE,), start=most, most=most)


def granted(desk: Balancer, *tickets: Ticket, now: float = 0.0) -> list[Grant]:
    for ticket in tickets:
        desk.wait(ticket)
    return desk.grants(now)


def test_no_more_than_the_limit_and_the_rest_in_order() -> None:
    desk = balancer(most=2)
    tickets = [Ticket(10) for _ in range(5)]
    first = granted(desk, *tickets)
    assert [grant.ticket for grant in first] == tickets[:2]
    desk.end(first[0], 1.0, Outcome.DONE)
    assert [grant.ticket for grant in desk.grants(1.0)] == tickets[2:3]
    assert desk.waiting == 2


def test_one_that_cannot_go_where_there_is_room_does_not_hold_up_the_next() -> None:
    desk = balancer(HERE, THERE)
    granted(desk, Ticket(1, avoid=frozenset({HERE})))
    picky, other = Ticket(1, avoid=frozenset({HERE})), Ticket(1)
    assert [grant.ticket for grant in granted(desk, picky, other)] == [other]


def test_one_that_was_sent_before_goes_first() -> None:
    desk = balancer()
    again, (grant,) = Ticket(1), granted(desk, Ticket(1), Ticket(1))
    desk.wait(again, first=True)
    desk.end(grant, 1.0, Outcome.DONE)
    assert [grant.ticket for grant in desk.grants(1.0)] == [again]


def test_who_withdraws_is_never_sent() -> None:
    desk = balancer()
    a, b, c = Ticket(1), Ticket(1), Ticket(1)
    (grant,) = granted(desk, a, b, c)
    desk.withdraw(b)
    desk.end(grant, 1.0, Outcome.UNKNOWN)
    assert [grant.ticket for grant in desk.grants(1.0)] == [c]


def test_the_endpoint_with_the_least_work_and_not_the_fewest_requests() -> None:
    desk = balancer(HERE, THERE, most=8)
    grants = granted(desk, Ticket(1000), Ticket(10), Ticket(10), Ticket(10))
    assert [grant.endpoint for grant in grants] == [HERE, THERE, THERE, THERE]


def test_jobs_are_served_by_tokens_whatever_they_send() -> None:
    """One sends ten times the requests, with four times the tokens."""
    desk, served, now = balancer(most=4), Counter[str](), 0.0
    for _ in range(400):
        desk.wait(Ticket(100, job="light"))
    for _ in range(4000):
        desk.wait(Ticket(400, job="heavy"))
    running = desk.grants(now)
    while sum(served.values()) < 60_000:
        now += 1
        grant = running.pop(0)
        desk.progress(grant, now, grant.ticket.tokens)
        desk.end(grant, now, Outcome.DONE)
        served[grant.ticket.job] += int(grant.ticket.tokens)
        running += desk.grants(now)
    assert served["light"] / served.total() == pytest.approx(0.5, abs=0.03)


def test_a_job_that_comes_late_does_not_catch_up_on_what_it_missed() -> None:
    desk = balancer()
    for now in range(50):
        (grant,) = granted(desk, Ticket(100, job="old"), now=now)
        desk.wait(Ticket(100, job="old"))
        desk.progress(grant, now, 100)
        desk.end(grant, now, Outcome.DONE)
        (grant,) = desk.grants(now)
        desk.end(grant, now, Outcome.DONE)
    for _ in range(10):
        desk.wait(Ticket(100, job="old"))
        desk.wait(Ticket(100, job="new"))
    order = []
    for now in range(100, 110):
        (grant,) = desk.grants(now)
        order.append(grant.ticket.job)
        desk.progress(grant, now, 100)
        desk.end(grant, now, Outcome.DONE)
    assert 4 <= order.count("old") <= 6


def test_a_prefix_stays_where_it_is_unless_that_endpoint_has_much_more_to_do() -> None:
    desk = balancer(HERE, THERE, "http://third/v1", most=64)
    (first,) = granted(desk, Ticket(10, prefix="manual"))
    same = [granted(desk, Ticket(10, prefix="manual"))[0].endpoint for _ in range(3)]
    assert same.count(first.endpoint) >= 1
    many = Counter(grant.endpoint for _ in range(60) for grant in granted(desk, Ticket(10, prefix="manual")))
    assert len(many) == 3
    assert max(many.values()) <= 30


def test_too_many_that_wait_are_refused() -> None:
    desk = Balancer([HERE], start=1, most=1, most_waiting=2)
    granted(desk, Ticket(1), Ticket(1))
    desk.wait(Ticket(1))
    with pytest.raises(EndpointBusy) as caught:
        desk.wait(Ticket(1))
    assert caught.value.code == "E723"


def test_an_endpoint_that_asks_to_wait_is_left_alone_so_long() -> None:
    desk = balancer(HERE, THERE, most=4)
    grants = granted(desk, Ticket(1), Ticket(1))
    desk.end(grants[0], 10.0, Outcome.PARKED, retry_after_s=7.0)
    assert {grant.endpoint for grant in granted(desk, Ticket(1), Ticket(1), now=16.9)} == {THERE}
    desk.end(grants[1], 16.9, Outcome.PARKED, retry_after_s=1e9)
    waits = [Ticket(1) for _ in range(6)]
    assert HERE in {grant.endpoint for grant in granted(desk, *waits, now=17.0)}


def test_it_says_when_to_ask_again() -> None:
    desk = balancer()
    (grant,) = granted(desk, Ticket(1))
    desk.end(grant, 10.0, Outcome.PARKED, retry_after_s=7.0)
    assert desk.wakes_at(10.0) == math.inf
    assert granted(desk, Ticket(1), now=10.0) == []
    assert desk.wakes_at(10.0) == 17.0
    assert len(desk.grants(17.0)) == 1


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_counts_are_true_whatever_happens(seed: int) -> None:
    """Every request is granted at most once, none is lost, and in the end nothing is outstanding."""
    chance = random.Random(seed)
    desk = balancer(HERE, THERE, most=chance.randint(1, 5))
    waiting: set[Ticket] = set()
    running: list[Grant] = []
    now = 0.0
    for _ in range(200):
        now += chance.random()
        match chance.randrange(4):
            case 0 | 1:
                ticket = Ticket(chance.uniform(1, 100), 5.0, job=chance.choice("abc"))
                waiting.add(ticket)
                desk.wait(ticket)
            case 2 if running:
                grant = running.pop(chance.randrange(len(running)))
                desk.progress(grant, now, chance.uniform(0, 50))
                desk.end(grant, now, chance.choice(list(Outcome)), retry_after_s=chance.choice([None, 0.5]))
            case 3 if waiting:
                ticket = chance.choice(sorted(waiting, key=lambda each: each.tokens))
                waiting.discard(ticket)
                desk.withdraw(ticket)
        for grant in desk.grants(now):
            waiting.remove(grant.ticket)
            running.append(grant)
        assert desk.waiting == len(waiting)
        assert sum(each.limit.in_flight for each in desk.snapshot(now)) == len(running)
    for grant in running:
        desk.end(grant, now, Outcome.DONE)
    while waiting:
        now += 400.0
        for grant in desk.grants(now):
            waiting.remove(grant.ticket)
            desk.end(grant, now, Outcome.DONE)
    assert [(each.limit.in_flight, round(each.outstanding_tokens, 6)) for each in desk.snapshot(now)] == [(0, 0)] * 2
    assert desk.wakes_at(now) == math.inf


class TestBreaker:
    def test_a_whole_limit_that_fails_at_once_makes_one_pause(self) -> None:
        breaker = Breaker()
        for n in range(50):
            breaker.failed(n * 0.001)
        assert 1.0 <= breaker.opens_at(0.1) < 1.1

    def test_where_nothing_accepts_it_opens_at_once_and_the_first_sign_of_an_answer_closes_it(self) -> None:
        breaker = Breaker()
        for _ in range(20):
            breaker.away(0.0)
        assert (breaker.healthy, breaker.opens_at(0.0)) == (False, 1.0)
        breaker.sent()
        assert breaker.opens_at(1.0) == math.inf
        breaker.answered()
        assert (breaker.healthy, breaker.opens_at(1.0)) == (True, 1.0)

    def test_a_success_does_not_end_a_wait_that_was_asked_for(self) -> None:
        breaker = Breaker()
        breaker.parked(0.0, 7.0)
        breaker.succeeded()
        assert breaker.opens_at(1.0) == 7.0

    def test_it_opens_after_failures_in_a_row(self) -> None:
        breaker = Breaker()
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        breaker.succeeded()
        for _ in range(FAILURES):
            assert breaker.opens_at(0.0) == 0.0
            breaker.failed(0.0)
        assert not breaker.healthy
        assert breaker.opens_at(0.0) == 1.0

    def test_then_one_probe_at_a_time(self) -> None:
        breaker = Breaker()
        for _ in range(FAILURES):
            breaker.failed(0.0)
        breaker.sent()
        assert breaker.opens_at(1.0) == math.inf
        breaker.unknown()
        assert breaker.opens_at(1.0) == 1.0
        breaker.sent()
        breaker.failed(1.0)
        assert breaker.opens_at(1.0) == 3.0
        breaker.sent()
        breaker.succeeded()
        assert breaker.healthy
        assert breaker.opens_at(3.0) == 3.0

    def test_a_burst_of_parks_is_one_pause(self) -> None:
        breaker = Breaker()
        for _ in range(10):
            breaker.parked(0.0, None)
        assert breaker.opens_at(0.0) == 1.0
        breaker.parked(1.0, 0.0)
        assert breaker.opens_at(1.0) == 3.0
        assert breaker.healthy

    def test_no_pause_is_longer_than_30_s_and_no_park_longer_than_300_s(self) -> None:
        breaker = Breaker()
        now = 0.0
        for _ in range(20):
            breaker.failed(now)
            assert breaker.opens_at(now) <= now + 30
            now = breaker.opens_at(now)
        breaker.parked(now, 1e9)
        assert breaker.opens_at(now) == now + 300


def run_for(desk: Balancer, tokens: float) -> Counter[str]:
    """End and grant, one request at a time, until so many tokens were served; who was served how much."""
    served, now = Counter[str](), 0.0
    running = desk.grants(now)
    while sum(served.values()) < tokens:
        now += 1
        grant = running.pop(0)
        desk.progress(grant, now, grant.ticket.tokens)
        desk.end(grant, now, Outcome.DONE)
        served[grant.ticket.job] += int(grant.ticket.tokens)
        running += desk.grants(now)
    return served


def test_twice_the_weight_is_twice_the_tokens() -> None:
    desk = balancer(most=4)
    for _ in range(1000):
        desk.wait(Ticket(100, job="one"))
        desk.wait(Ticket(100, job="two", weight=2))
    served = run_for(desk, 60_000)
    assert served["two"] / served["one"] == pytest.approx(2, rel=0.03)


def test_a_tenants_jobs_share_what_the_tenant_gets() -> None:
    """However many jobs it has, and whatever each of them sends."""
    desk = balancer(most=4)
    for _ in range(1000):
        desk.wait(Ticket(100, job="only", tenant="one"))
        desk.wait(Ticket(100, job="small", tenant="two"))
        for _ in range(3):
            desk.wait(Ticket(400, job="large", tenant="two"))
    served = run_for(desk, 80_000)
    assert served["only"] / served.total() == pytest.approx(0.5, abs=0.03)
    assert served["small"] / served["large"] == pytest.approx(1.0, abs=0.1)


def test_the_wait_counts_the_jobs_of_ones_own_tenant() -> None:
    desk = balancer()
    for job in ("a", "b"):
        for _ in range(20):
            desk.wait(Ticket(100, job=job, tenant="one"))
    for _ in range(20):
        desk.wait(Ticket(100, job="c", tenant="two"))
    run_for(desk, 600)  # one request a second
    assert desk.wait_s(Ticket(100, job="new", tenant="one"), 6.0) == pytest.approx(6, rel=0.4), "a, b, and three of c"
    assert desk.wait_s(Ticket(100, job="new", tenant="two"), 6.0) == pytest.approx(4, rel=0.4), "c, and two of one"


def test_the_higher_band_goes_first_and_the_lower_one_gets_its_reserve() -> None:
    desk = balancer(most=4)
    for _ in range(1000):
        desk.wait(Ticket(100, job="batch"))
        desk.wait(Ticket(100, job="interactive", band=1))
    served = run_for(desk, 60_000)
    assert served["batch"] / served.total() == pytest.approx(0.05, abs=0.01)


def test_the_wait_is_foretold_from_the_rate_at_which_the_queue_empties() -> None:
    desk = balancer()
    for _ in range(20):
        desk.wait(Ticket(100, job="a"))
    assert desk.wait_s(Ticket(100, job="a"), 0.0) == 0.0, "nothing was seen yet"
    run_for(desk, 1000)  # one request a second
    assert desk.wait_s(Ticket(100, job="a"), 10.0) == pytest.approx(desk.waiting, rel=0.2)
    assert desk.wait_s(Ticket(100, job="b"), 10.0) == pytest.approx(1, rel=0.3), "its turn comes sooner"
    assert desk.wait_s(Ticket(100, job="c", band=1), 10.0) == 0.0
