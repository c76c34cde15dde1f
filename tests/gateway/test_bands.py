"""Bands in virtual time: what the balancer keeps free for the higher one, and what it owes the lower one."""

from sage.llm.balancer import HOLD_S, Balancer, Grant, Outcome
from sage.llm.turns import Ticket


def ticket(band: int) -> Ticket:
    return Ticket(100, job="ab"[band], band=band)


def test_a_place_stays_free_for_a_moment_for_the_band_that_left_it() -> None:
    desk = Balancer(["x"], start=1, most=1)
    desk.wait(ticket(1))
    (grant,) = desk.grants(0.0)
    desk.wait(ticket(0))
    desk.end(grant, 1.0, Outcome.DONE)
    assert desk.grants(1.0) == []
    assert desk.wakes_at(1.0) == 1.0 + HOLD_S
    desk.wait(ticket(1))
    (again,) = desk.grants(1.0)
    assert again.ticket.band == 1
    desk.end(again, 2.0, Outcome.DONE)
    (other,) = desk.grants(2.0 + HOLD_S)
    assert other.ticket.band == 0
    desk.end(other, 3.0, Outcome.DONE)
    desk.wait(ticket(0))
    assert len(desk.grants(3.0)) == 1, "nothing is held for those who left it"


def test_a_band_that_is_served_anyway_is_owed_nothing() -> None:
    """Both have work all the time, and the lower one gets three places of four: it never goes before the higher one."""
    desk = Balancer(["x"], start=4, most=4)
    running: list[Grant] = []
    for turn in range(400):
        now = float(turn)
        if not any(grant.ticket.band for grant in running):
            desk.wait(ticket(1))
        while desk.waiting < 4:
            desk.wait(ticket(0))
        granted = desk.grants(now)
        assert not granted or sum(grant.ticket.band for grant in (*running, *granted)) == 1
        running += granted
        desk.end(running.pop(0), now, Outcome.DONE)
