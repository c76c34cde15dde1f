"""Two actors of one Ray on one machine: against Ray's own queue, the best that calls of actors allow, and sockets."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.queues.channels import Plain, sage, zmq_tcp
from benchmarks.queues.harness import (
    GIGABYTES,
    PATIENCE_S,
    RATE,
    Ends,
    Job,
    Load,
    NotMeasured,
    Row,
    Times,
    compare,
    ends_of,
    flow,
    small_items,
)
from benchmarks.queues.harness import arrays as arrays_of

from sage.queues import RayQueueDescriptor

try:
    os.environ |= {  # before Ray is imported: it listens on loopback, and talks to those who have the token
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    import ray
    import ray.util.queue
except ImportError:
    ray = None

MAXSIZE = 10_000
IN_FLIGHT = 16
SINGLES = Load(200_000, small_items)
RAYS_SINGLES = Load(300, small_items, warm_up=20)
LISTS = Load(1_000_000, small_items, together=100, warm_up=100_000)
CALLS_LISTS = Load(50_000, small_items, together=100, warm_up=5_000)


def rows(rounds: int) -> Iterator[Row]:
    with ray_here():
        yield from _rows(rounds)


@contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of this machine alone, for as long as it is measured."""
    if ray is None:
        raise NotMeasured("Ray is not installed")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=1_000_000_000, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _rows(rounds: int) -> Iterator[Row]:
    yield from compare(
        "one by one",
        RATE,
        {
            "SAGE": lambda: _flow(drop_in(), SINGLES),
            "ray Queue": lambda: _flow(rays_own(), RAYS_SINGLES),
        },
        [Times(1_000, "ray Queue")],
        rounds,
    )
    yield from compare(
        "lists of 100",
        RATE,
        {
            "SAGE": lambda: _flow(ours(), LISTS),
            "pyzmq tcp": lambda: _flow(zmq_tcp(), LISTS),
            "Ray calls": lambda: _flow(calls(), CALLS_LISTS),
        },
        [Times(0.5, "pyzmq tcp"), Times(20, "Ray calls")],
        rounds,
    )
    for size, least, count in ((1_000_000, 3, 500), (16_000_000, 1.2, 60)):
        load = Load(count, partial(arrays_of, size), warm_up=count // 5, mark=ends_of)
        measures = {
            "SAGE": partial(_gigabytes, partial(ours, 64 if size < 4_000_000 else 8), load, size),
            "ray.put": partial(_gigabytes, references, load, size),
        }
        yield from compare(f"arrays of {size // 1_000_000} MB", GIGABYTES, measures, [Times(least, "ray.put")], rounds)


def _flow(ends: Ends, load: Load) -> float:
    return flow(ends, load, in_actors)


def _gigabytes(make: Callable[[], Ends], load: Load, size: int) -> float:
    return _flow(make(), load) * size / 1e9


def in_actors(*jobs: Job) -> list[Any]:
    """Run `jobs` in an actor each, pinned to the cores in turn, as `in_processes` does."""
    cores = sorted(os.sched_getaffinity(0))
    actors = [
        ray.remote(_Actor).options(num_cpus=0).remote(job, cores[index % len(cores)]) for index, job in enumerate(jobs)
    ]
    try:
        for method in ("ready", "run"):
            calls = [getattr(actor, method).remote() for actor in actors]
            results = ray.get(calls, timeout=PATIENCE_S)
        return results
    except ray.exceptions.GetTimeoutError:
        raise NotMeasured(f"not done after {PATIENCE_S:.0f} s") from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for actor in actors:
            ray.kill(actor)


class _Barrier:
    """The actor behind `new_barrier`."""

    def __init__(self, parties: int) -> None:
        import asyncio

        self._barrier = asyncio.Barrier(parties)

    async def wait(self) -> None:
        await self._barrier.wait()


class _Wait:
    """What its parties have of it."""

    def __init__(self, barrier: Any) -> None:
        self._barrier = barrier

    def wait(self) -> None:
        ray.get(self._barrier.wait.remote())


def new_barrier(parties: int) -> Any:
    """A barrier for jobs in actors."""
    return _Wait(ray.remote(_Barrier).options(num_cpus=0).remote(parties))


class _Actor:
    def __init__(self, job: Job, core: int) -> None:
        os.sched_setaffinity(0, [core])
        self._job = job

    def ready(self) -> None:
        self._job.ready()

    def run(self) -> Any:
        return self._job.run()


# --- SAGE and its peers -----------------------------------------------------------------------------------------------


def ours(max_items: int = MAXSIZE) -> Ends:
    """A queue by its descriptor. This process creates it, and keeps it to its end."""
    descriptor = RayQueueDescriptor(maxsize=max_items, max_bytes=256_000_000)
    descriptor.create()
    return sage(descriptor)


def drop_in() -> Ends:
    """The drop-in for Ray's own."""
    from sage.queues.ray import Queue

    end = partial(Plain, Queue(MAXSIZE))
    return Ends(end, end)


def rays_own() -> Ends:
    """`ray.util.queue.Queue`: each put and each get is a call."""
    end = partial(Plain, ray.util.queue.Queue(MAXSIZE))
    return Ends(end, end)


class _Hub:
    """A queue of lists in an actor. They are numbered: calls that are under way together may overtake one another."""

    def __init__(self) -> None:
        self._lists: dict[int, Any] = {}

    def _place(self, number: int) -> Any:
        import asyncio

        return self._lists.setdefault(number, asyncio.get_running_loop().create_future())

    async def put(self, number: int, items: list[Any]) -> None:
        self._place(number).set_result(items)

    async def get(self, number: int) -> list[Any]:
        items = await self._place(number)
        del self._lists[number]
        return items


class _Calls:
    """One end of it: so many calls are under way at once."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._number = 0
        self._under_way: deque[Any] = deque()
        self.put, self.get = self.put_list, self.get_list

    def _call(self, method: Any, *args: Any) -> None:
        self._under_way.append(method.remote(self._number, *args))
        self._number += 1

    def put_list(self, items: Any) -> None:
        if len(self._under_way) == IN_FLIGHT:
            ray.get(self._under_way.popleft())
        self._call(self._hub.put, items)

    def get_list(self) -> Any:
        while len(self._under_way) < IN_FLIGHT:
            self._call(self._hub.get)
        return ray.get(self._under_way.popleft())

    def end(self) -> None:
        self._under_way.clear()


def calls() -> Ends:
    """The best that calls of an actor allow: asynchronous, many under way."""
    end = partial(_Calls, ray.remote(_Hub).options(num_cpus=0, max_concurrency=100).remote())
    return Ends(end, end)


class _References(_Calls):
    """The same, with references to what lies in Ray's object store."""

    def put_list(self, items: Any) -> None:
        super().put_list([ray.put(items)])

    def get_list(self) -> Any:
        return ray.get(super().get_list()[0])


def references() -> Ends:
    """`ray.put`, and the reference through a queue of calls."""
    end = partial(_References, ray.remote(_Hub).options(num_cpus=0, max_concurrency=100).remote())
    return Ends(end, end)
