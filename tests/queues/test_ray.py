"""Ray queues, on a real Ray. Each test leaves neither actors nor memory behind."""

import asyncio
import gc
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from ray_cluster import MARKS, actors, call, ray, run_ray, wait_until_left

from conftest import Wait
from patience import DEADLINE_S
from sage.queues import Queue as Contract
from sage.queues import QueueBroken, QueueClosed, QueueDescriptor, QueueError
from sage.queues.ray import (
    Empty,
    Full,
    Queue,
    RayQueue,
    RayQueueDescriptor,
    get_global_queue_manager,
)
from sage.testing import check_queue, check_queue_bytes

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield from run_ray()


@pytest.fixture(autouse=True)
def nothing_left_behind(cluster: None) -> Iterator[None]:
    yield
    wait_until_left()


@pytest.fixture
def hosted() -> Iterator[tuple[RayQueueDescriptor, Contract[Any]]]:
    descriptor = RayQueueDescriptor(maxsize=1_000)
    made = descriptor.queue_instance
    yield descriptor, made
    made.close()
    made.detach()


def raises(kind: type[Exception], work: Callable[[], object]) -> bool:
    try:
        work()
    except kind:
        return True
    return False


# --- the drop-in ---


def test_items_come_as_they_were_put() -> None:
    q = Queue()
    for item in range(10):
        q.put(item)
        assert q.qsize() == q.size() == len(q) == item + 1
    assert [q.get() for _ in range(10)] == list(range(10))
    assert q.empty()
    assert not q.full()


def test_full_and_empty_are_rays_own_and_the_standard_librarys() -> None:
    q = Queue(1)
    for empty in (Empty, ray.util.queue.Empty, queue.Empty):
        with pytest.raises(empty):
            q.get_nowait()
        with pytest.raises(empty):
            q.get(timeout=0.01)
    q.put(0, block=False)
    assert q.full()
    for full in (Full, ray.util.queue.Full, queue.Full):
        with pytest.raises(full):
            q.put_nowait(1)
        with pytest.raises(full):
            q.put(1, timeout=0.01)
    for wrong in (lambda: q.put(1, timeout=-1), lambda: q.get(timeout=-1)):
        with pytest.raises(ValueError, match="non-negative"):
            wrong()
    assert q.get() == 0


def test_batches_come_whole_or_not_at_all() -> None:
    q = Queue(3)
    with pytest.raises(Full):
        q.put_nowait_batch(range(4))
    q.put_nowait_batch([])
    q.put_nowait_batch(iter([1, 2]))
    with pytest.raises(Full):
        q.put_nowait_batch([3, 4])
    with pytest.raises(Empty):
        q.get_nowait_batch(3)
    assert q.get_nowait_batch(0) == []
    assert q.get_nowait_batch(2) == [1, 2]
    with pytest.raises(TypeError):
        q.put_nowait_batch(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        q.get_nowait_batch("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonnegative"):
        q.get_nowait_batch(-1)


def test_batches_are_whole_while_others_get_and_put() -> None:
    """Two producers and two consumers of whole batches: no batch is torn apart or overfills the queue."""
    q = Queue(20)
    got: list[list[Any]] = [[], []]
    until = time.monotonic() + 30

    def produce(number: int) -> None:
        for batch in range(100):
            while time.monotonic() < until:
                try:
                    q.put_nowait_batch([(number, 5 * batch + index) for index in range(5)])
                    break
                except Full:
                    assert q.size() <= 20

    def consume(mine: list[Any]) -> None:
        while len(mine) < 500 and time.monotonic() < until:
            try:
                mine += q.get_nowait_batch(4)
            except Empty:
                continue

    work = [threading.Thread(target=produce, args=(number,)) for number in range(2)]
    work += [threading.Thread(target=consume, args=(mine,)) for mine in got]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert sorted(got[0] + got[1]) == [(number, item) for number in range(2) for item in range(500)]


def test_our_own_batches() -> None:
    q = Queue()
    q.put_batch(range(250))
    assert q.get_batch(200) == list(range(200))
    assert q.get_batch() == list(range(200, 250))
    assert q.get_stats().total_gets == 250
    with pytest.raises(Empty):
        q.get_batch(timeout=0.01)


def test_tasks_and_actors_share_a_queue() -> None:
    def produce(q: Queue, number: int) -> None:
        for item in range(50):
            q.put((number, item))

    class Consumer:
        def __init__(self, q: Queue) -> None:
            self.q = q

        def take(self, count: int) -> list[Any]:
            return [self.q.get() for _ in range(count)]

    q = Queue(10)
    consumer = ray.remote(Consumer).options(num_cpus=0).remote(q)
    taken = consumer.take.remote(100)
    ray.get([call(produce, q, number) for number in range(2)])
    got = ray.get(taken)
    for number in range(2):
        assert [item for producer, item in got if producer == number] == list(range(50))


def test_a_get_waits_for_a_task_that_starts_later() -> None:
    q = Queue(1)
    q.put(1)
    blocked = call(lambda q: q.put(2), q)
    assert not ray.wait([blocked], timeout=0.1)[0]
    assert [q.get(), q.get()] == [1, 2]
    waiting = call(lambda q: q.get(), q)
    assert not ray.wait([waiting], timeout=0.1)[0]
    q.put(3)
    assert ray.get(waiting) == 3


def test_coroutines_wait_without_holding_the_others_up() -> None:
    async def main() -> None:
        q = Queue(1)
        with pytest.raises(Empty):
            await q.get_async(block=False)
        with pytest.raises(Empty):
            await q.get_async(timeout=0.01)
        with pytest.raises(ValueError, match="non-negative"):
            await q.get_async(timeout=-1)
        getters = [asyncio.create_task(q.get_async()) for _ in range(20)]
        await asyncio.sleep(0)
        for item in range(20):
            await q.put_async(item)
        assert sorted(await asyncio.gather(*getters)) == list(range(20))
        await q.put_async(1)
        with pytest.raises(Full):
            await q.put_async(2, block=False)
        with pytest.raises(Full):
            await q.put_async(2, timeout=0.01)

    asyncio.run(main())


def test_a_cancelled_coroutine_takes_nothing() -> None:
    async def main() -> None:
        q = Queue()
        waiting = asyncio.create_task(q.get_async())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        q.put("kept")
        assert await q.get_async(timeout=DEADLINE_S) == "kept"

    asyncio.run(main())


def test_actor_options_reach_the_actor() -> None:
    q = Queue(actor_options={"num_cpus": 2, "name": "sage-queues-chosen"})
    q.put(1)
    assert actors() == ["sage-queues-chosen"]
    assert ray.available_resources().get("CPU", 0) == 0
    q.shutdown()


@pytest.mark.parametrize("force", [True, False])
def test_shutdown_ends_the_queue_for_everybody(force: bool, wait_until: Wait) -> None:
    q = Queue()
    actor, copy = q.actor, pickle.loads(ray.cloudpickle.dumps(q))
    if force:
        assert copy.empty()  # it is open here when the actor ends
    waiting = call(lambda q: q.get(), copy)
    assert not ray.wait([waiting], timeout=0.1)[0]
    q.shutdown(force)
    assert q.actor is None
    q.shutdown()
    puts = (lambda: copy.put(1), lambda: copy.put_nowait_batch([1]))
    for use in (lambda: ray.get(actor.empty.remote()), copy.qsize, *puts, copy.get, copy.qsize):
        wait_until(lambda use=use: raises(ray.exceptions.RayActorError, use))  # it is noticed soon, not at once
    with pytest.raises(QueueBroken):
        ray.get(waiting)
    with pytest.raises(QueueClosed):
        q.put(1)


def test_the_actor_ends_with_the_last_copy() -> None:
    class Keeper:
        def __init__(self, q: Queue) -> None:
            self.q = q

        def get(self) -> Any:
            return self.q.get()

    q = Queue()
    keeper = ray.remote(Keeper).options(num_cpus=0).remote(q)
    ray.get(keeper.__ray_ready__.remote())
    q.put(1)
    del q
    gc.collect()
    assert ray.get(keeper.get.remote()) == 1
    # that the actor ends with the keeper is checked after every test


# --- references to objects ---


def test_references_keep_their_objects_alive() -> None:
    def produce(q: Queue) -> None:
        q.put([ray.put(numpy.arange(100_000)), "beside"])
        q.put_batch([{"reference": ray.put(index)} for index in range(3)])

    def consume(q: Queue) -> list[Any]:
        (array, beside), *others = [q.get() for _ in range(4)]
        return [int(ray.get(array).sum()), beside, *(ray.get(item["reference"]) for item in others)]

    q = Queue()
    produce(q)  # here: what a task puts ends with its worker, as ever
    gc.collect()
    assert ray.get(call(consume, q)) == [4_999_950_000, "beside", 0, 1, 2]


def test_a_reference_is_got_once_and_then_let_go() -> None:
    q = Queue()
    reference = ray.put("object")
    q.put(reference)
    assert ray.get(q.get()) == "object"
    assert pickle.loads(pickle.dumps(reference)) == reference  # others' pickles are none of our business


# --- descriptors ---


def test_the_contract(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    """One actor hosts all the queues of the check: an actor each would take a minute to start."""
    host = hosted[0].queue_id
    check_queue(lambda maxsize: RayQueueDescriptor(maxsize=maxsize, host=host).create())
    check_queue_bytes(lambda max_bytes: RayQueueDescriptor(max_bytes=max_bytes, host=host).create())


def test_a_descriptor_is_all_that_a_task_needs(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    def produce(text: str) -> str:
        q = QueueDescriptor.from_json(text).queue_instance
        q.put_batch(range(5_000))
        q.detach()
        return type(q).__name__

    descriptor, made = hosted
    produced = call(produce, descriptor.to_json())
    assert [made.get() for _ in range(5_000)] == list(range(5_000))
    assert ray.get(produced) == RayQueue.__name__
    assert descriptor.open() is made


def test_large_arrays_arrive_as_views(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    descriptor, made = hosted
    produced = call(lambda d: d.open().put(numpy.arange(200_000)), descriptor)
    array = made.get()
    ray.get(produced)
    assert (array == numpy.arange(200_000)).all()
    assert not array.flags.owndata


def test_several_queues_of_one_actor() -> None:
    made = [RayQueueDescriptor(host="several").create() for _ in range(3)]
    for number, q in enumerate(made):
        q.put(number)
    assert actors() == ["sage-queues-several"]
    assert [q.get() for q in made] == [0, 1, 2]
    for q in made:
        q.detach()


def test_what_is_not_there(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    for descriptor in (RayQueueDescriptor(), RayQueueDescriptor(host=hosted[0].queue_id)):
        with pytest.raises(QueueError) as raised:
            descriptor.open()
        assert raised.value.code == "E504"
    with pytest.raises(QueueError) as raised:
        hosted[0].create()
    assert raised.value.code == "E503"


def test_the_directory_knows_every_queue(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    descriptor, made = hosted
    made.put_batch(range(7))
    manager = get_global_queue_manager()
    assert get_global_queue_manager() == manager
    assert ray.get(manager.find.remote()) == {descriptor.actor_name: [descriptor.queue_id]}
    assert ray.get(manager.get_stats.remote())[descriptor.queue_id].depth == 7
    ray.kill(manager)


# --- death ---


def test_when_the_actor_is_killed_nobody_hangs() -> None:
    descriptor = RayQueueDescriptor(maxsize=1)
    made = descriptor.queue_instance
    got: list[BaseException] = []

    def work(what: Callable[[], object]) -> None:
        try:
            what()
        except QueueError as error:
            got.append(error)

    made.put(1)
    threads = [threading.Thread(target=work, args=(lambda: made.put("item"),)) for _ in range(2)]
    elsewhere = call(lambda d: d.open().put("item"), descriptor)
    for thread in threads:
        thread.start()
    assert not ray.wait([elsewhere], timeout=0.1)[0]
    here = ray.get_runtime_context().get_node_id()
    attachment = ray.get(ray.get_actor(descriptor.actor_name).attach.remote(descriptor.queue_id, here))
    os.kill(attachment.process, signal.SIGKILL)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [type(error) for error in got] == [QueueBroken, QueueBroken]
    assert [list(error.items) for error in got if isinstance(error, QueueBroken)] == [["item"], ["item"]]
    with pytest.raises(QueueBroken):
        ray.get(elsewhere, timeout=DEADLINE_S)
    for use in (made.get, lambda: made.put_batch([1])):
        with pytest.raises(QueueBroken):
            use()
    made.detach()
    assert not attachment.memory.path.exists()


def test_a_killed_producer_breaks_a_descriptors_queue_and_not_a_drop_in() -> None:
    def produce_and_die(q: Any, item: object) -> None:
        opened = q.open() if isinstance(q, QueueDescriptor) else q
        opened.put(item)
        opened.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    descriptor = RayQueueDescriptor()
    made = descriptor.queue_instance
    call(produce_and_die, descriptor, 1)
    assert made.get() == 1
    with pytest.raises(QueueBroken):
        made.get()
    made.detach()

    q = Queue()
    died = call(produce_and_die, q, 1)
    ray.wait([died])
    waiting = call(lambda q: [q.get(), q.get()], q)
    assert not ray.wait([waiting], timeout=1.2)[0]
    q.put(2)
    assert ray.get(waiting) == [1, 2]


def test_a_whole_batch_that_never_fits_keeps_no_places(hosted: tuple[RayQueueDescriptor, Contract[Any]]) -> None:
    _, made = hosted
    assert isinstance(made, RayQueue)
    with pytest.raises(QueueError, match="E509"):
        made.put_whole([bytes(65 << 20), 1])
    made.put_batch(list(range(1_000)), block=False)
    assert made.get_whole(1_000) == list(range(1_000))
