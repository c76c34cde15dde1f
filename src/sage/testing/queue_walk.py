"""Random walks of a queue beside a model of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from sage.queues.queue import BatchFull, Empty, Full, Queue
from sage.testing.queue_story import demand, raises


def check_walk(make: Callable[[int | None], Queue[Any]], chance: random.Random) -> None:
    """Every step does to the queue what it does to a list."""
    maxsize = chance.choice([1, 2, 5, 30])
    queue, model = make(maxsize), deque[int]()
    story: list[str] = [f"maxsize={maxsize}"]
    for item in range(200):
        step = chance.choice([_put_step, _put_batch_step, _get_step, _get_batch_step])
        story.append(step(queue, model, item, maxsize, chance))
        demand(queue.qsize() == len(model), f"qsize() is {queue.qsize()}, not {len(model)}, after {story[-5:]}")
    queue.close()
    demand(list(queue) == list(model), f"at the end the queue held something else than the model, after {story[-5:]}")
    queue.detach()


def _put_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    if len(model) == maxsize:
        raises(Full, lambda: queue.put_nowait(item), "put_nowait() to a full queue")
    else:
        queue.put_nowait(item)
        model.append(item)
    return f"put {item}"


def _put_batch_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    items = [item * 1000 + index for index in range(chance.randrange(6))]
    room = maxsize - len(model)
    model.extend(items[:room])
    if len(items) <= room:
        queue.put_batch(items, block=False)
    else:
        full = raises(BatchFull, lambda: queue.put_batch(items, block=False), "a batch larger than the room")
        demand(list(full.items) == items[room:], f"BatchFull.items are {full.items}, not {items[room:]}")
    return f"put_batch {items}"


def _get_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    if not model:
        raises(Empty, queue.get_nowait, "get_nowait() of an empty queue")
        return "get of nothing"
    got, expected = queue.get_nowait(), model.popleft()
    demand(got == expected, f"get brought {got}, not {expected}")
    return f"get {got}"


def _get_batch_step(queue: Queue[Any], model: deque[int], item: int, maxsize: int, chance: random.Random) -> str:
    count = chance.randrange(1, 8)
    if not model:
        raises(Empty, lambda: queue.get_batch(count, timeout=0), "get_batch of an empty queue")
        return "get_batch of nothing"
    got = queue.get_batch(count)
    expected = [model.popleft() for _ in range(min(count, len(model)))]
    demand(got == expected, f"get_batch({count}) brought {got}, not {expected}")
    return f"get_batch {got}"
