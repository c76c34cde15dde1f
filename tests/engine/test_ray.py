"""What is particular to runs on a cluster: where things run, what arrives there, and what is left of it."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import sage
from engines import RayEngine
from live import Gate, Notes
from patience import DEADLINE_S
from ray_nodes import MARKS
from sage import Operator, OperatorContext, Status
from sage.connectors import Items
from sage.flow.step import StepOptions
from sage.runtime import member
from sage.runtime import ray as ray_engine

pytestmark = [*MARKS, pytest.mark.usefixtures("ray_driver")]
engine = RayEngine()


def node() -> str:
    """Ray's id of the node on which this is called."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found


def node_of(record: Any) -> str:
    return node()


async def node_of_awaited(record: Any) -> str:
    return node()


def test_steps_run_on_all_nodes_and_what_waits_where_it_is_told(ray_driver: Any) -> None:
    pipeline = sage.Pipeline("places")
    source = pipeline.read(Items(lambda: iter([os.getpid()] * 2000)))
    source.map(node_of).collect("plain")
    source.map(node_of_awaited, name="awaited", parallelism=2, concurrency=4).collect("by-awaited")
    source.map(node_of, name="threads", parallelism=2, concurrency=4).collect("by-threads")
    source.map(lambda pid: (pid, os.getpid())).map(node_of_awaited, name="home").collect("at-home")
    result = engine.run(pipeline)
    nodes = {found["NodeID"] for found in ray_driver.nodes()}
    assert len(nodes) == 2
    assert [set(result.collected(name)) for name in ("plain", "by-awaited", "by-threads")] == [nodes] * 3
    assert set(result.collected("at-home")) == {node()}


def test_records_stay_in_their_host_from_step_to_step() -> None:
    """Where each host has an instance of both, there is no queue between."""

    def build(stream: sage.Stream) -> sage.Stream:
        first = stream.map(lambda n: os.getpid(), name="first")
        return first.map(lambda pids: [(pid, os.getpid()) for pid in pids], batch_size=4, name="second")

    found = engine.over(range(2000), build).collected()
    assert len({pid for pid, _ in found}) == 2
    assert all(first == second for first, second in found)


def test_order_by_holds_across_nodes() -> None:
    def build(stream: sage.Stream) -> sage.Stream:
        return stream.map(lambda n: n).order_by(lambda n: n % 5).map(lambda n: (n, os.getpid())).filter(bool)

    found = engine.over(range(2000), build).collected()
    assert len({pid for _, pid in found}) == 2
    for key in range(5):
        numbers = [n for n, _ in found if n % 5 == key]
        assert numbers == list(range(key, 2000, 5))


def connections_to(port: int) -> int:
    """Established ones, as their server has them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.thorough
@pytest.mark.parametrize("edges", [1, 4])
def test_two_hosts_have_one_connection_however_many_edges(edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    serve = ray_engine.serve

    def noted(key: str) -> Any:
        address, server = serve(key)
        ports.append(address.port)
        return address, server

    async def count(record: Any) -> int:  # at home
        return connections_to(ports[-1])

    def build(stream: sage.Stream) -> sage.Stream:
        for number in range(edges):
            stream = stream.map(node_of, name=f"away-{number}").map(count, name=f"home-{number}")
        return stream

    monkeypatch.setattr(ray_engine, "serve", noted)
    assert max(engine.over(range(500), build).collected()) == 1  # the other host is on the machine of the driver


def test_a_host_on_the_machine_of_the_driver_is_reached_through_its_memory() -> None:
    ways = [placed.where.partition(", reached ")[2] for placed in engine.over([1], lambda s: s.map(node_of)).placed]
    assert sorted(ways) == ["over a link", "through shared memory"]


@pytest.mark.thorough
def test_where_no_port_can_be_reached_everything_goes_in_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_engine, "reaches", lambda address: False)
    found = engine.over(range(500), lambda s: s.map(node_of).map(lambda node: (node, os.getpid()))).collected()
    assert (len(found), len({node for node, _ in found})) == (500, 2)
    assert "records travel in calls of Ray" in caplog.text


class Settled(Operator):
    """Tells where it is."""

    def __init__(self, constant: Any) -> None:
        self.constant = constant

    def __call__(self, record: int) -> tuple[Any, ...]:
        print("working on", record)
        return os.getcwd(), os.environ["SAGE_TEST"], int(self.constant.sum()), self.constant.flags.writeable


def test_a_host_has_the_folder_the_settings_and_what_is_large_once_a_node(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_TEST", "set")
    constant = numpy.ones(1_000_000)
    found = engine.over([1, 2], lambda s: s.map(Settled(constant), parallelism=1)).collected()
    assert found == [(os.getcwd(), "set", 1_000_000, False)] * 2
    assert Counter(capsys.readouterr().out.splitlines()) == Counter(["working on 1", "working on 2"])


class Busy(Operator):
    """Says which process it is in, and waits."""

    def __init__(self, pids: Notes, gate: Gate) -> None:
        self.pids = pids
        self.gate = gate

    def open(self, context: OperatorContext) -> None:
        self.pids.append(os.getpid())

    def __call__(self, record: int) -> int:
        self.gate.wait()
        return record


def busy(step: StepOptions | None = None, **options: Any) -> tuple[sage.Job, Notes, Gate]:
    pids, gate = Notes(), Gate()
    pipeline = sage.Pipeline("busy")
    pipeline.read(Items(range(10))).map(Busy(pids, gate), name="busy", **(step or {})).collect()
    return engine.start(pipeline, **options), pids, gate


Wait = Callable[[Callable[[], object]], None]


def test_a_run_begins_again_when_a_host_is_killed(wait_until: Wait) -> None:
    job, pids, gate = busy()
    wait_until(lambda: len(pids) == 2)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: len(pids) > 2)
    gate.open()
    result = job.wait(DEADLINE_S)
    assert result.error is None
    assert f"is lost: process {pids[0]} on node 127.0.0.1 was killed, or its node was" in result.restarts[0]
    assert sorted(result.collected()) == list(range(10))
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_job_directory_is_with_the_driver() -> None:
    """What hosts paid for, they find again in the next run."""
    calls = Notes()

    def call(n: int) -> int:
        calls.append(n)
        time.sleep(0.006)  # quicker ones share a commit, and more of them are in flight
        return n * n

    def pipeline(most: int) -> sage.Pipeline:
        made = sage.Pipeline("paid")
        stream = made.read(Items(range(200))).map(call, name="call", durable=True)
        stream.map(lambda n: n if n < most else 1 // 0, name="cut", on_error="fail", parallelism=1).collect()
        return made

    first = engine.run(pipeline(10_000), job_dir=Path("job"))
    assert first.status is Status.FAILED
    assert len(calls) > 99
    second = engine.run(pipeline(1_000_000), job_dir=Path("job"))
    assert sorted(second.collected()) == [n * n for n in range(200)]
    assert len(calls) <= 200 + 2


@pytest.mark.thorough
def test_an_async_call_that_kills_its_host_is_a_dead_letter_after_three_deaths(letters: Any) -> None:
    deaths = Notes()

    async def call(n: int) -> int:
        await asyncio.sleep(0.01)
        if n == 40:
            deaths.append(n)
            os._exit(1)
        return n

    found = engine.over(range(200), lambda s: s.map(call, name="call", concurrency=8, parallelism=2))
    assert sorted(found.collected()) == [n for n in range(200) if n != 40]
    assert [(letter["rid"], letter["code"]) for letter in letters(found)] == [("items/40", "E419")]
    assert len(deaths) == 3


@pytest.mark.thorough  # of the law itself, test_again.py is the test
def test_a_host_that_stands_still_is_lost(wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LEASE_TICKS", 4)
    job, pids, gate = busy(restarts=0)
    wait_until(lambda: len(pids) == 2)
    os.kill(pids[0], signal.SIGSTOP)
    result = job.wait(DEADLINE_S)
    gate.open()
    assert "nothing was heard of it for 4 s" in str(result.error)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_an_abort_leaves_no_host(wait_until: Wait) -> None:
    job, pids, gate = busy()
    wait_until(lambda: len(pids) == 2)
    job.abort()
    result = job.wait(DEADLINE_S)
    gate.open()
    assert result.status is Status.CANCELLED
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.thorough
def test_an_abort_ends_a_run_whose_hosts_do_not_start_again(ray_driver: Any, wait_until: Wait) -> None:
    class Holder:
        def hold(self) -> None:
            """Answers once it has what it asked for."""

    job, pids, gate = busy({"resources": {"cpu": 1}})
    wait_until(lambda: len(pids) == 2)
    holders = [ray_driver.remote(Holder).options(num_cpus=1).remote() for _ in range(2)]
    held = [holder.hold.remote() for holder in holders]
    os.kill(pids[0], signal.SIGKILL)
    ray_driver.get(held)  # there is no room for hosts any more
    wait_until(lambda: job.snapshot().restarts)
    job.abort()
    assert job.wait(DEADLINE_S).status is Status.CANCELLED  # they would have had longer to start
    gate.open()
    for holder in holders:
        ray_driver.kill(holder)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_what_no_node_has_is_told_before_anything_is_read() -> None:
    read = Notes()

    def build(stream: sage.Stream) -> sage.Stream:
        return stream.map(node_of, name="large", resources={"gpu": 1})

    with pytest.raises(sage.PipelineError, match=r"E245 .* at large: got .*0 of 1 gpu left"):
        engine.over(lambda: iter([read.append(1)]), build)
    assert not read


def test_a_host_whose_resources_are_taken_is_told(ray_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Holder:  # travels by value: nothing of the tests is on the path of these processes
        def hold(self) -> None:
            """Answers once it has what it asked for."""

    monkeypatch.setattr(ray_engine, "START_S", 2.0)
    holders = [ray_driver.remote(Holder).options(num_cpus=1).remote() for _ in range(2)]
    ray_driver.get([holder.hold.remote() for holder in holders])
    with pytest.raises(sage.SageError, match="E811 a host cannot be started: its node did not start it"):
        engine.over([1], lambda s: s.map(node_of, resources={"cpu": 1}))
    for holder in holders:
        ray_driver.kill(holder)


def test_a_scheduler_by_name() -> None:
    pipeline = sage.Pipeline("packed")
    pipeline.read(Items(range(100))).map(node_of, parallelism=1).map(node_of, parallelism=1, name="next").collect()
    assert len(set(engine.run(pipeline, scheduler="load_aware_pack").collected())) == 1
