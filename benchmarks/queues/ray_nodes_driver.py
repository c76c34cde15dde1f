"""The program that `ray_nodes.py` runs on the head: it answers one question a line, with a figure as JSON.

The consumer is this process, and the queue is on its node; the producer is an actor on the other one.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray
import ray.util.queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sage.queues import RayQueueDescriptor

OLD_ITEMS, CALLS_ITEMS, NEW_ITEMS, WARM_UP = 50, 200_000, 500_000, 20_000
_SMALL = [f"item_{index}" for index in range(100)]


class Producer:
    """On the other node."""

    def one_by_one(self, queue: Any, count: int) -> None:
        opened = queue.open() if isinstance(queue, RayQueueDescriptor) else queue
        put = opened.put
        for item in (_SMALL * (count // len(_SMALL) + 1))[:count]:
            put(item)

    def lists(self, queue: RayQueueDescriptor, count: int) -> None:
        put_batch = queue.open().put_batch
        for _ in range(count // len(_SMALL)):
            put_batch(_SMALL)

    def puts_ms(self, queue: RayQueueDescriptor, count: int) -> float:
        """How long it takes until so many single items are known to be in the queue."""
        opened = queue.open()
        started = time.perf_counter()
        for item in range(count):
            opened.put(item)
        opened.wait_for_pending_puts(30)
        return (time.perf_counter() - started) * 1e3

    def lone(self, queue: RayQueueDescriptor, count: int) -> None:
        """Items that tell when they were put: both nodes have the clock of this machine."""
        opened = queue.open()
        for _ in range(count):
            time.sleep(0.02)
            opened.put(time.monotonic())

    def hundred_ms(self, queue: RayQueueDescriptor) -> float:
        """How long it takes to get 100 items that are in the queue on the other side."""
        opened = queue.open()
        started = time.perf_counter()
        got: list[Any] = []
        while len(got) < 100:
            got += opened.get_batch(100 - len(got))
        return (time.perf_counter() - started) * 1e3

    def leave(self, queue: RayQueueDescriptor) -> None:
        queue.open().detach()


class Driver:
    def __init__(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        (there,) = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != here]
        self._on_this = NodeAffinitySchedulingStrategy(here, soft=False)
        strategy = NodeAffinitySchedulingStrategy(there, soft=False)
        self._producer = ray.remote(Producer).options(num_cpus=0, scheduling_strategy=strategy).remote()

    def old(self) -> float:
        queue = ray.util.queue.Queue(10_000, actor_options={"num_cpus": 0, "scheduling_strategy": self._on_this})
        produced = self._producer.one_by_one.remote(queue, OLD_ITEMS + 5)
        _check([queue.get() for _ in range(5)], 5)
        started = time.perf_counter()
        _check([queue.get() for _ in range(OLD_ITEMS)], OLD_ITEMS, 5)
        taken_s = time.perf_counter() - started
        ray.get(produced)
        return OLD_ITEMS / taken_s

    def new(self, count: int = NEW_ITEMS, method: str = "one_by_one", *, ports: bool = True) -> float:
        with _Queue(self._producer, ports=ports) as (descriptor, queue):
            produced = getattr(self._producer, method).remote(descriptor, count + WARM_UP)
            got = _get(queue, WARM_UP)
            started = time.perf_counter()
            got += _get(queue, count)
            taken_s = time.perf_counter() - started
            _check(got, count + WARM_UP)
            ray.get(produced)
        return count / taken_s

    def lists(self) -> float:
        return self.new(2 * NEW_ITEMS, "lists")

    def calls(self) -> float:
        return self.new(CALLS_ITEMS, ports=False)

    def lone(self) -> float:
        """The median, in ms."""
        with _Queue(self._producer) as (descriptor, queue):
            produced = self._producer.lone.remote(descriptor, 30)
            took = sorted(time.monotonic() - put_at for put_at in (queue.get() for _ in range(30)))
            ray.get(produced)
        return took[15] * 1e3

    def puts(self, count: int) -> float:
        with _Queue(self._producer) as (descriptor, queue):
            ray.get(self._producer.puts_ms.remote(descriptor, 100))
            took: float = ray.get(self._producer.puts_ms.remote(descriptor, count))
            _check(queue.get_batch(100) + _get(queue, count), None, items=[*range(100), *range(count)])
        return took

    def hundred(self) -> float:
        with _Queue(self._producer) as (descriptor, queue):
            queue.put_batch(range(200))
            ray.get(self._producer.hundred_ms.remote(descriptor))  # it is attached by then
            took: float = ray.get(self._producer.hundred_ms.remote(descriptor))
        return took

    def answer(self, question: str) -> float:
        if question == "thousand":
            return self.puts(1_000)
        if question == "ten_thousand":
            return self.puts(10_000)
        figure: float = getattr(self, question)()
        return figure


class _Queue:
    """A queue on this node, for one measurement."""

    def __init__(self, producer: Any, *, ports: bool = True) -> None:
        self._producer = producer
        self._descriptor = RayQueueDescriptor(maxsize=100_000, ports=ports)

    def __enter__(self) -> Any:
        self._queue = self._descriptor.create()
        return self._descriptor, self._queue

    def __exit__(self, *_: object) -> None:
        ray.get(self._producer.leave.remote(self._descriptor))
        self._queue.detach()


def _get(queue: Any, count: int) -> list[Any]:
    got: list[Any] = []
    while len(got) < count:
        got += queue.get_batch(min(1_000, count - len(got)))
    return got


def _check(got: list[Any], count: int | None, first: int = 0, items: list[Any] | None = None) -> None:
    if items is None:
        assert count is not None
        items = (_SMALL * ((first + count) // len(_SMALL) + 1))[first : first + count]
    if got != items:
        raise ValueError("what came is not what was put")


def main() -> None:
    ray.init(logging_level="error", log_to_driver=False)
    driver = Driver()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(driver.answer(json.loads(line))), flush=True)
        except ValueError as error:
            print(json.dumps(str(error)), flush=True)


if __name__ == "__main__":
    main()
