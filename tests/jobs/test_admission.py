"""Which job starts next."""

from hypothesis import given
from hypothesis import strategies as st

from sage.jobs.admission import Capacity, Needs, Running, Waiting, admit, forecast, shares

NEEDS = st.builds(
    Needs, processors=st.sampled_from([0.0, 0.5, 1.0, 3.0]), memory_bytes=st.integers(0, 4), places=st.integers(0, 4)
)
JOBS = st.lists(
    st.builds(
        Waiting,
        id=st.uuids().map(str),
        band=st.integers(0, 9),
        waited_s=st.floats(0, 1000),
        delay_s=st.sampled_from([0.0, 0.5, 7.0]),
        user=st.sampled_from(["anna", "otto"]),
        needs=NEEDS,
        usual_s=st.sampled_from([None, 0.0, 1.0, 60.0]),
    ),
    max_size=30,
    unique_by=lambda job: job.id,
)
RUNNING = st.lists(
    st.builds(
        Running,
        id=st.uuids().map(str),
        user=st.sampled_from(["anna", "otto"]),
        needs=NEEDS,
        left_s=st.sampled_from([None, 0.0, 1.0, 60.0]),
    ),
    max_size=6,
)
CAPACITY = st.builds(
    Capacity,
    jobs=st.integers(1, 10),
    jobs_per_user=st.none() | st.integers(1, 4),
    processors=st.none() | st.sampled_from([3.0, 8.0]),
    memory_bytes=st.none() | st.integers(4, 16),
    places=st.none() | st.integers(4, 16),
)


@given(JOBS, RUNNING, CAPACITY)
def test_everybody_starts_or_has_a_place_and_a_reason(
    waiting: list[Waiting], running: list[Running], capacity: Capacity
) -> None:
    decided = admit(waiting, running, capacity)
    assert sorted([*decided.start, *decided.queue]) == sorted(job.id for job in waiting)
    assert [place.position for place in decided.queue.values()] == list(range(1, len(decided.queue) + 1))
    assert all(place.reason for place in decided.queue.values())
    assert all(decided.why(job) for job in decided.start)
    assert {job.id for job in waiting if job.delay_s == 0} >= set(decided.start)


@given(JOBS, RUNNING, CAPACITY)
def test_nothing_is_given_twice(waiting: list[Waiting], running: list[Running], capacity: Capacity) -> None:
    """Whoever starts has room beside all others, as long as those that ran already had."""
    decided = admit(waiting, running, capacity)
    started = [job for job in waiting if job.id in decided.start]
    for job in started:
        assert len(running) + len(started) <= capacity.jobs
        together = [other.needs for other in (*running, *started)]
        for need, most in (("processors", capacity.processors), ("places", capacity.places)):
            if most is not None and getattr(job.needs, need):
                assert sum(getattr(one, need) for one in together) <= most
        of_user = [other for other in (*running, *started) if other.user == job.user]
        assert capacity.jobs_per_user is None or len(of_user) <= capacity.jobs_per_user


@given(JOBS, RUNNING, CAPACITY)
def test_a_forecast_ends_and_never_lies_before_a_start_delay(
    waiting: list[Waiting], running: list[Running], capacity: Capacity
) -> None:
    found = forecast(waiting, running, capacity)
    by_id = {job.id: job for job in waiting}
    assert set(found) <= set(by_id)
    assert all(seconds >= by_id[job].delay_s for job, seconds in found.items())
    assert {job for job, seconds in found.items() if seconds == 0} >= set(admit(waiting, running, capacity).start)


def test_a_forecast_follows_from_how_long_runs_take() -> None:
    running = [Running("long", left_s=90.0), Running("short", left_s=10.0)]
    waiting = [Waiting("a", 5, 3.0, usual_s=20.0), Waiting("b", 5, 2.0, usual_s=1.0), Waiting("c", 5, 1.0)]
    assert forecast(waiting, running, Capacity(2)) == {"a": 10.0, "b": 30.0, "c": 31.0}
    assert forecast(waiting, [Running("nobody knows")], Capacity(1)) == {}


def test_the_order_is_priority_then_arrival() -> None:
    jobs = [Waiting("late", 5, 1.0), Waiting("early", 5, 2.0), Waiting("urgent", 0, 0.0), Waiting("idle", 9, 3.0)]
    assert list(admit(jobs, (), Capacity(9)).start) == ["urgent", "early", "late", "idle"]


def test_nobody_is_passed_for_ever() -> None:
    """After 30 s a job has passed newer ones of the next higher band."""
    assert list(admit([Waiting("new", 4, 0.0), Waiting("old", 5, 31.0)], (), Capacity(1)).start) == ["old"]
    assert list(admit([Waiting("new", 4, 0.0), Waiting("old", 5, 29.0)], (), Capacity(1)).start) == ["new"]


def test_a_start_delay_lets_others_pass() -> None:
    jobs = [Waiting("delayed", 0, 9.0, 2.0), Waiting("r", 9, 0.0), Waiting("t", 9, 0.0)]
    decided = admit(jobs, [Running("there")], Capacity(2))
    assert list(decided.start) == ["r"]
    assert [(job, place.position, place.reason) for job, place in decided.queue.items()] == [
        ("t", 1, "all 2 places are taken"),
        ("delayed", 2, "starts in 2.0 s at the earliest"),
    ]


def test_what_is_small_passes_what_has_no_room_for_a_while() -> None:
    running = [Running("r", needs=Needs(processors=1))]
    large, small = Waiting("large", 5, 10.0, needs=Needs(processors=2)), Waiting("small", 5, 0.0)
    decided = admit([large, small], running, Capacity(8, processors=2))
    assert list(decided.start) == ["small"]
    assert decided.queue["large"].reason == "needs 2 processors, and 1 of 2 are free"
    old = Waiting("large", 5, 31.0, needs=Needs(processors=2))
    decided = admit([old, small], running, Capacity(8, processors=2))
    assert decided.queue["small"].reason == "room is kept for large, which has waited for 31 s"


def test_what_can_never_fit_keeps_nobody_up() -> None:
    waiting = [Waiting("large", 5, 99.0, needs=Needs(processors=4)), Waiting("small", 5, 0.0, needs=Needs(1))]
    decided = admit(waiting, [], Capacity(8, processors=2))  # of a manager that was started again with less
    assert list(decided.start) == ["small"]
    assert decided.queue["large"].reason == "needs 4 processors, and 2 of 2 are free"


def test_a_user_with_all_its_jobs_keeps_nobody_up() -> None:
    waiting = [Waiting("more", 0, 99.0, user="anna"), Waiting("other", 9, 0.0, user="otto")]
    decided = admit(waiting, [Running("r", "anna")], Capacity(8, jobs_per_user=1))
    assert list(decided.start) == ["other"]
    assert decided.queue["more"].reason == "anna has 1 jobs already, which is all that one may have"


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.01, 100), min_size=1, max_size=8),
    st.integers(8, 10_000),
    st.data(),
)
def test_shares_are_by_weight_and_add_up(weights: dict[str, float], in_flight: int, data: st.DataObject) -> None:
    most = data.draw(st.dictionaries(st.sampled_from(sorted(weights)), st.integers(1, 5000)))
    found = shares(weights, most, Capacity(8, in_flight=in_flight))
    given = {job: share for job, share in found.items() if share is not None}
    assert given.keys() == weights.keys()
    assert all(1 <= share <= most.get(job, in_flight) for job, share in given.items())
    assert sum(given.values()) <= in_flight + len(weights)
    if not most:
        assert sum(given.values()) >= in_flight


def test_what_one_job_may_not_have_goes_to_the_others() -> None:
    assert shares({"a": 1, "b": 1}, {"a": 10}, Capacity(8, in_flight=100)) == {"a": 10, "b": 90}
    assert shares({"a": 1, "b": 3}, {}, Capacity(8, in_flight=100)) == {"a": 25, "b": 75}
    assert shares({"a": 1, "b": 3}, {"b": 7}, Capacity(8)) == {"a": None, "b": 7}
