"""Ray queues across two nodes: over a link, and by calls of the actor where no port is to be opened."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy
import pytest
from ray_cluster import MARKS, actors, call, ray, run_two_nodes, wait_until_left

from patience import DEADLINE_S
from sage.queues import Queue as Contract
from sage.queues import QueueBroken
from sage.queues.ray import Queue, RayQueue, RayQueueDescriptor

pytestmark = MARKS
On = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def other_node() -> Iterator[str]:
    yield from run_two_nodes()


@pytest.fixture(autouse=True)
def nothing_left_behind(other_node: str) -> Iterator[None]:
    yield
    wait_until_left()


@pytest.fixture
def there(other_node: str) -> On:
    """Starts tasks on the other node."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(other_node, soft=False)
    return partial(call, scheduling_strategy=strategy)


@pytest.fixture(params=[True, False], ids=["port", "calls"])
def hosted(request: pytest.FixtureRequest) -> Iterator[tuple[RayQueueDescriptor, Contract[Any]]]:
    """A queue on this node, in both ways in which the other one may reach it."""
    descriptor = RayQueueDescriptor(maxsize=1_000, ports=request.param)
    made = descriptor.create()
    yield descriptor, made
    made.close()
    made.detach()


Hosted = tuple[RayQueueDescriptor, Contract[Any]]


def test_items_arrive_once_and_in_order(hosted: Hosted, there: On) -> None:
    def produce(descriptor: RayQueueDescriptor) -> bool:
        with descriptor.open() as q:
            for item in range(5_000):
                q.put(item)
            q.put_batch(range(5_000, 10_000))
            q.wait_for_pending_puts(DEADLINE_S)
            is_here = isinstance(q, RayQueue) and q.is_here
            q.detach()
            return is_here

    descriptor, made = hosted
    produced = there(produce, descriptor)
    assert [made.get(timeout=DEADLINE_S) for _ in range(10_000)] == list(range(10_000))
    assert ray.get(produced) is False


def test_a_consumer_on_the_other_node(hosted: Hosted, there: On) -> None:
    def consume(descriptor: RayQueueDescriptor) -> list[Any]:
        q = descriptor.open()
        got = [q.get() for _ in range(100)]
        while len(got) < 3_000:
            got += q.get_batch(500)
        q.detach()
        return got

    descriptor, made = hosted
    consumed = there(consume, descriptor)
    made.put_batch(range(3_000))
    assert ray.get(consumed, timeout=DEADLINE_S) == list(range(3_000))


def test_large_arrays_cross(hosted: Hosted, there: On) -> None:
    def produce(descriptor: RayQueueDescriptor) -> None:
        q = descriptor.open()
        for index in range(4):
            q.put(numpy.full(200_000, index))
        q.wait_for_pending_puts(DEADLINE_S)
        q.detach()

    descriptor, made = hosted
    produced = there(produce, descriptor)
    assert [int(made.get(timeout=DEADLINE_S).sum()) for _ in range(4)] == [0, 200_000, 400_000, 600_000]
    ray.get(produced)


def test_references_go_across(hosted: Hosted, there: On) -> None:
    def consume(descriptor: RayQueueDescriptor) -> list[Any]:
        q = descriptor.open()
        got = [ray.get(q.get()["reference"]) for _ in range(3)]
        q.put_batch([[ray.put(item)] for item in got])
        q.wait_for_pending_puts(DEADLINE_S)
        q.detach()
        return got

    descriptor, made = hosted
    for item in range(3):
        made.put({"reference": ray.put(item)})
    consumed = there(consume, descriptor)
    assert ray.get(consumed, timeout=DEADLINE_S) == [0, 1, 2]


def test_the_killed_actor_is_noticed(hosted: Hosted, there: On) -> None:
    def wait(descriptor: RayQueueDescriptor, told: RayQueueDescriptor) -> str:
        q = descriptor.open()
        assert q.get() == "are you there?"
        with told.open() as answers:
            answers.put("yes")
            answers.wait_for_pending_puts(DEADLINE_S)
            answers.detach()
        try:
            q.get()
        except QueueBroken:
            return "broken"
        return "item"

    descriptor, made = hosted
    made.put("are you there?")
    told = RayQueueDescriptor(maxsize=10)
    answers = told.create()
    waiting = there(wait, descriptor, told)
    assert answers.get(timeout=DEADLINE_S) == "yes"
    answers.close()
    answers.detach()
    here = ray.get_runtime_context().get_node_id()
    attachment = ray.get(ray.get_actor(descriptor.actor_name).attach.remote(descriptor.queue_id, here))
    os.kill(attachment.process, signal.SIGKILL)
    assert ray.get(waiting, timeout=DEADLINE_S) == "broken"


def test_the_drop_in_for_coroutines_on_the_other_node(there: On) -> None:
    def work(q: Queue) -> list[Any]:
        async def main() -> list[Any]:
            waiting = asyncio.create_task(q.get_async())
            cancelled = asyncio.create_task(q.get_async())
            await asyncio.sleep(0.01)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            for item in range(3):
                await q.put_async(item)
            return sorted([await waiting, await q.get_async(timeout=DEADLINE_S), await q.get_async(timeout=DEADLINE_S)])

        return asyncio.run(main())

    q = Queue()
    assert ray.get(there(work, q), timeout=DEADLINE_S) == [0, 1, 2]


def test_the_queue_is_where_it_was_created(there: On) -> None:
    def create(descriptor: RayQueueDescriptor) -> bool:
        q = descriptor.create()
        assert isinstance(q, RayQueue)
        is_here = q.is_here
        q.detach()
        return is_here

    assert ray.get(there(create, RayQueueDescriptor()))
    assert actors() == []
