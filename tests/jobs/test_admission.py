"""Which job starts next."""

from hypothesis import given
from hypothesis import strategies as st

from sage.jobs.admission import Waiting, admit

JOBS = st.lists(
    st.builds(
        Waiting,
        id=st.uuids().map(str),
        band=st.integers(0, 9),
        waited_s=st.floats(0, 1000),
        delay_s=st.sampled_from([0.0, 0.5, 7.0]),
    ),
    max_size=30,
    unique_by=lambda job: job.id,
)


@given(JOBS, st.integers(0, 10), st.integers(1, 10))
def test_everybody_starts_or_has_a_place_and_a_reason(waiting: list[Waiting], running: int, limit: int) -> None:
    decided = admit(waiting, running, limit)
    assert sorted([*decided.start, *decided.queue]) == sorted(job.id for job in waiting)
    assert [place.position for place in decided.queue.values()] == list(range(1, len(decided.queue) + 1))
    assert all(place.reason for place in decided.queue.values())
    ready = [job for job in waiting if job.delay_s == 0]
    assert len(decided.start) == min(len(ready), max(0, limit - running))
    assert {job.id for job in ready} >= set(decided.start)


def test_the_order_is_priority_then_arrival() -> None:
    jobs = [Waiting("late", 5, 1.0), Waiting("early", 5, 2.0), Waiting("urgent", 0, 0.0), Waiting("idle", 9, 3.0)]
    assert admit(jobs, 0, 9).start == ("urgent", "early", "late", "idle")


def test_nobody_is_passed_for_ever() -> None:
    """After 30 s a job has passed newer ones of the next higher band."""
    assert admit([Waiting("new", 4, 0.0), Waiting("old", 5, 31.0)], 0, 1).start == ("old",)
    assert admit([Waiting("new", 4, 0.0), Waiting("old", 5, 29.0)], 0, 1).start == ("new",)


def test_a_start_delay_lets_others_pass() -> None:
    decided = admit([Waiting("delayed", 0, 9.0, 2.0), Waiting("ready", 9, 0.0), Waiting("third", 9, 0.0)], 1, 2)
    assert decided.start == ("ready",)
    assert [(job, place.position, place.reason) for job, place in decided.queue.items()] == [
        ("third", 1, "all 2 places are taken"),
        ("delayed", 2, "starts in 2.0 s at the earliest"),
    ]
