"""Queues: item by item, and in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from sage.bench.case import Case
from sage.bench.executor import Executor, Run
from sage.bench.experiment import Column, Experiment, Figures, Plot
from sage.bench.options import Options
from sage.errors import InternalError
from sage.queues import LocalQueueDescriptor, Queue, QueueDescriptor, SageQueueDescriptor, SharedMemoryQueueDescriptor

KINDS: dict[str, Callable[[int], QueueDescriptor]] = {
    "local": lambda size: LocalQueueDescriptor(maxsize=size),
    "shared memory": lambda size: SharedMemoryQueueDescriptor(maxsize=size),
    "sage": lambda size: SageQueueDescriptor(maxsize=size),
}
BATCH = 100
TRIES = 5
PUT = Column("puts_per_s", "puts/s", digits=0, better="higher")
PUT_BATCH = Column("batched_puts_per_s", "batched puts/s", digits=0, better="higher")
GET = Column("gets_per_s", "gets/s", digits=0, better="higher")
GET_BATCH = Column("batched_gets_per_s", "batched gets/s", digits=0, better="higher")
IMPROVEMENT = Column("improvement", "batched / single", digits=1, better="higher")


def cases(options: Options) -> Sequence[Case]:
    items = options.sized(50_000, 5_000)
    return [Case(kind, index, "", settings={"items": items}) for index, kind in enumerate(KINDS)]


def measure(case: Case, executor: Executor, seed: int) -> tuple[Figures, Run | None]:
    items = [f"item_{index}" for index in range(seed, seed + case.settings["items"])]
    single_put, single_get = _round(case.name, items, _put_each, _get_each)
    batch_put, batch_get = _round(case.name, items, _put_batches, _get_batches)
    return {
        "puts_per_s": single_put,
        "gets_per_s": single_get,
        "batched_puts_per_s": batch_put,
        "batched_gets_per_s": batch_get,
        "improvement": batch_put / single_put,
    }, None


def _round(
    kind: str,
    items: list[str],
    put: Callable[[Queue[Any], list[str]], None],
    get: Callable[[Queue[Any], int], list[Any]],
) -> tuple[float, float]:
    """Items a second, put and then got; every item is compared."""
    with KINDS[kind](len(items)).create() as queue:
        began = perf_counter()
        put(queue, items)
        queue.flush()
        full = perf_counter()
        got = get(queue, len(items))
        ended = perf_counter()
    if got != items:
        raise InternalError(
            "E902", "items were lost, so no figure of this run is shown", at=f"queue {kind}", got=len(got)
        )
    return len(items) / (full - began), len(items) / (ended - full)


def _put_each(queue: Queue[Any], items: list[str]) -> None:
    for item in items:
        queue.put(item)


def _put_batches(queue: Queue[Any], items: list[str]) -> None:
    for first in range(0, len(items), BATCH):
        queue.put_batch(items[first : first + BATCH])


def _get_each(queue: Queue[Any], count: int) -> list[Any]:
    return [queue.get(timeout=60) for _ in range(count)]


def _get_batches(queue: Queue[Any], count: int) -> list[Any]:
    got: list[Any] = []
    while len(got) < count:
        got += queue.get_batch(BATCH, timeout=60)
    return got


def verify(items: int = 2_000) -> Iterator[tuple[str, bool, str]]:
    """The quick check: what, whether it passed, and the figure or reason. Each figure is the best of `TRIES`."""
    names = [f"item_{index}" for index in range(items)]
    for kind in KINDS:
        try:
            single = max(_round(kind, names, _put_each, _get_each)[0] for _ in range(TRIES))
            yield f"{kind}: every item arrives, in order", True, f"{single:,.0f} puts/s"
            batched = max(_round(kind, names, _put_batches, _get_each)[0] for _ in range(TRIES))
            yield f"{kind}: batching works", True, f"{batched:,.0f} puts/s"
            got = max(_round(kind, names, _put_each, _get_batches)[1] for _ in range(TRIES))
            yield f"{kind}: batch get works", True, f"{got:,.0f} gets/s"
        except Exception as error:  # noqa: BLE001 -- a check tells whatever went wrong
            yield f"{kind}: items arrive", False, str(error)
            continue
        yield f"{kind}: batches are quicker", batched > single, f"{batched / single:.1f} times"


QUEUE = Experiment(
    "queue",
    "Queues",
    "Queues: items a second, one by one and in batches of 100",
    cases,
    (PUT, PUT_BATCH, GET, GET_BATCH, IMPROVEMENT),
    (Plot("puts", "Items a second into a queue", "kind", "items/s", (PUT, PUT_BATCH), "bars"),),
    measure=measure,
    published={"sage": {"puts_per_s": 407, "batched_puts_per_s": 11_236, "improvement": 27.6}},
    source="SAGE issue 1074, batched Ray queue, 1,000 puts",
    on_clusters=False,
)
