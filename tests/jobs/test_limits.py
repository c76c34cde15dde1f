"""What a job may take, and that others do not feel it when one takes too much."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.managers import HEAD, QUICK, RELEASED, Managed
from sage.errors import UsageError

Wait = Callable[[Callable[[], object]], None]

LEAKING = (
    HEAD
    + """
kept = []

def leak(n):
    kept.append(bytearray(b"x" * 4_000_000))
    return {"n": n}

pipeline = sage.Pipeline("leaking")
pipeline.read(Items(itertools.count())).map(leak).write(JsonLines("leaked.jsonl"))
"""
)
HELD = RELEASED.replace('"out.jsonl"', 'f"out-{os.getpid()}.jsonl"')
"""Several of them do not write to the same file."""
COUNTED = (
    HEAD
    + """
def hold(n):
    with open("held", "a") as held:
        held.write("x")
    until("go")
    return {"n": n}

pipeline = sage.Pipeline("counted")
pipeline.read(Items(range(1000))).map(hold, concurrency=64).write(JsonLines("counted.jsonl"))
"""
)


def test_a_job_that_leaks_is_ended_with_its_reason_and_others_live(
    managed: Managed, wait_until: Wait, tmp_path: Path
) -> None:
    managed.start()
    other = managed.submit(RELEASED)
    wait_until((tmp_path / "working").exists)
    found = managed.end_of(managed.submit(LEAKING, memory_bytes=256 << 20))
    assert found["state"] == "FAILED"
    assert found["reason"].startswith("E824 the job used more memory than it may, and was ended")
    assert managed.client.show(other)["state"] == "RUNNING"
    (tmp_path / "go").touch()
    assert managed.end_of(other)["state"] == "SUCCEEDED"


def test_records_in_flight_are_a_jobs_share_and_follow_who_runs(
    managed: Managed, wait_until: Wait, tmp_path: Path
) -> None:
    managed.start("--in-flight", "12")
    job = managed.submit(COUNTED)
    wait_until(lambda: len("".join(managed.lines("held"))) == 12)
    other = managed.submit(RELEASED, start_delay_s=0, max_in_flight=4)
    wait_until(lambda: managed.client.show(other)["max_in_flight"] == 4)
    assert managed.client.show(job)["max_in_flight"] == 8
    with pytest.raises(UsageError, match=r"E145 .* at max_in_flight: got 0"):
        managed.client.limit(other, 0)
    managed.client.limit(other, 1)
    assert managed.client.show(job)["max_in_flight"] == 11
    managed.client.limit(other, None)
    assert [managed.client.show(one)["max_in_flight"] for one in (job, other)] == [6, 6]
    (tmp_path / "go").touch()
    assert {managed.end_of(one)["state"] for one in (job, other)} == {"SUCCEEDED"}
    assert managed.client.show(job)["max_in_flight"] is None
    with pytest.raises(UsageError, match="E144 the job cannot be limited: it has ended"):
        managed.client.limit(job, 5)


def test_a_limit_that_grows_lets_a_running_job_read_on(managed: Managed, wait_until: Wait, tmp_path: Path) -> None:
    managed.start()
    job = managed.submit(COUNTED, max_in_flight=3)
    wait_until(lambda: len("".join(managed.lines("held"))) == 3)
    managed.client.limit(job, 40)
    wait_until(lambda: len("".join(managed.lines("held"))) > 20)
    assert len("".join(managed.lines("held"))) <= 40
    (tmp_path / "go").touch()
    assert managed.end_of(job)["written"] == 1000


def test_jobs_wait_for_processors_and_for_others_of_their_user(
    managed: Managed, wait_until: Wait, tmp_path: Path
) -> None:
    managed.start("--processors", "3", "--places", "10", "--max-jobs-per-user", "2")
    told = HELD + 'Path("threads").write_text(os.environ["OMP_NUM_THREADS"])\n'
    first = managed.submit(told, processors=1.5, user="anna")
    wait_until((tmp_path / "working").exists)
    assert (tmp_path / "threads").read_text() == "2"
    large = managed.submit(HELD, processors=2, user="otto")
    second = managed.submit(HELD, user="anna", places=10)
    third = managed.submit(HELD, user="anna")
    wait_until(lambda: managed.client.show(second)["state"] == "RUNNING")
    places = managed.submit(HELD, user="otto", places=1)
    reasons = {job: managed.client.show(job)["reason"] for job in (large, third, places)}
    assert reasons == {
        large: "needs 2 processors, and 1.5 of 3 are free",
        third: "anna has 2 jobs already, which is all that one may have",
        places: "needs 1 places at endpoints, and 0 of 10 are free",
    }
    with pytest.raises(UsageError, match="E147 the job needs more than there is for all jobs: got needs 4 processors"):
        managed.submit(HELD, processors=4)
    (tmp_path / "go").touch()
    assert {managed.end_of(job)["state"] for job in (first, large, second, third, places)} == {"SUCCEEDED"}
    assert managed.client.show(large)["changes"][0]["reason"].startswith("there is room, urgency 1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0), ("weight", 101), ("weight", True), ("processors", -1), ("memory_bytes", 1), ("places", 0.5),
        ("max_in_flight", 0), ("user", "../x"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be(served: Managed, field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"E145 a field of the job has a value that it cannot have at {field}: got"):
        served.submit(QUICK, **{field: value})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> object:
    managed = Managed(tmp_path_factory.mktemp("served"))
    managed.start()
    yield managed
    managed.close()
