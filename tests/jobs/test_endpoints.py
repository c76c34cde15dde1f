"""The gateway before the endpoints that jobs share."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from jobs.managers import HEAD, Managed
from sage.jobs.cleanup import leftovers
from sage.jobs.endpoints import GatewayFolder, Gateways
from sage.llm.simulated import SimulatedEndpoint
from sage.processes import end_all

Wait = Callable[[Callable[[], object]], None]

ASKING = (
    HEAD
    + """
from sage.rag import Generate

def wait(record):
    Path("working").touch()
    until("go")
    return record

pipeline = sage.Pipeline("asking")
questions = pipeline.read(Items([{"prompt": f"question {n}"} for n in range(20)]))
questions.map(wait).map(Generate(max_tokens=4)).write(JsonLines(f"answers-{os.getpid()}.jsonl"))
"""
)


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint("tiny", api_key="upstream") as endpoint:
        yield endpoint


@pytest.fixture
def asking(managed: Managed, endpoint: SimulatedEndpoint, wait_until: Wait) -> Iterator[Managed]:
    """Its jobs ask `endpoint`, whose key is in a file of theirs."""
    (managed.where / "key").write_text("upstream")
    (managed.where / "sage.toml").write_text(f'llm_url = "{endpoint.url}"\nllm_key_file = "key"\n')
    yield managed
    managed.close()
    wait_until(lambda: all(gateway.process() is None for gateway in Gateways(managed.folder).all()))


def gateway_of(managed: Managed) -> GatewayFolder:
    (found,) = Gateways(managed.folder).all()
    return found


def requests_by_key(managed: Managed) -> dict[str, int]:
    db = sqlite3.connect(managed.folder.path.parent / "usage.sqlite")
    try:
        return dict(db.execute("SELECT key, SUM(requests) FROM used GROUP BY key").fetchall())
    finally:
        db.close()


def test_jobs_ask_through_one_gateway_each_with_a_key_of_its_own(asking: Managed, wait_until: Wait) -> None:
    asking.start()
    jobs = [asking.submit(ASKING, weight=weight) for weight in (1, 2)]
    wait_until(lambda: len(list(Gateways(asking.folder).path.glob("*/keys/*"))) == 2)
    wait_until(lambda: [asking.client.show(job)["state"] for job in jobs] == ["RUNNING", "RUNNING"])
    first = gateway_of(asking).process()
    (asking.where / "go").touch()
    assert {asking.end_of(job)["state"] for job in jobs} == {"SUCCEEDED"}
    wait_until(lambda: list(gateway_of(asking).keys.iterdir()) == [])
    assert gateway_of(asking).process() == first
    with gateway_of(asking).key_of("0123abcd", {}):  # as a supervisor that was killed leaves it
        (left,) = leftovers(asking.folder, lambda: set(jobs))
        assert left.kind == "key of no job"
        left.remove()
        assert leftovers(asking.folder, lambda: set(jobs)) == []
    wait_until(lambda: requests_by_key(asking) == {f"job-{job}": 20 for job in jobs})
    assert not (asking.folder.path.parent / "batches").exists()  # those are of the user's own gateway


def test_the_gateway_is_killed_and_jobs_go_on(asking: Managed, wait_until: Wait) -> None:
    asking.start()
    job = asking.submit(ASKING)
    wait_until((asking.where / "working").exists)
    gateway = gateway_of(asking).process()
    assert gateway is not None
    key = (asking.where / "key").rename(asking.where / "no key")
    end_all([gateway], 10)
    wait_until(lambda: "key" in gateway_of(asking).log.read_text())  # it cannot be started now
    key.rename(asking.where / "key")
    wait_until(lambda: gateway_of(asking).process() is not None)
    (asking.where / "go").touch()
    found = asking.end_of(job)
    assert (found["state"], found["written"]) == ("SUCCEEDED", 20)
    asking.kill()
    wait_until(lambda: gateway_of(asking).process() is None)
    for left in leftovers(asking.folder, lambda: {job}):
        left.remove()
    assert Gateways(asking.folder).all() == []
    assert leftovers(asking.folder, lambda: {job}) == []


def test_an_endpoint_that_is_away_is_the_jobs_own_trouble(asking: Managed) -> None:
    (asking.where / "sage.toml").write_text('llm_url = "http://127.0.0.1:1"\n')
    asking.start()
    found = asking.end_of(asking.submit(ASKING))
    assert found["state"] == "FAILED"
    assert "the endpoints are asked directly" in asking.log(found["id"])


def test_a_job_may_ask_directly(asking: Managed) -> None:
    asking.start()
    (asking.where / "go").touch()
    assert asking.end_of(asking.submit(ASKING, shared_endpoints=False))["state"] == "SUCCEEDED"
    assert Gateways(asking.folder).all() == []
