"""Whether what a consumer was sent ahead and does not get is there for another one: `Empty` and the end are true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import QueueClosed
from sage.queues.queue import Empty, Queue
from sage.testing.queue_story import LONG_S, SHORT_S, demand, raises

MakeEnds = Callable[[int], tuple[Queue[Any], Queue[Any]]]
_ITEMS = 1_000
_WAYS: dict[str, Callable[[Queue[Any]], list[Any]]] = {
    "get_nowait()": lambda queue: [queue.get_nowait()],
    "get(timeout=0.01)": lambda queue: [queue.get(timeout=SHORT_S)],
    "get_batch(50, timeout=0.01)": lambda queue: queue.get_batch(50, timeout=SHORT_S),
    "get(timeout=20)": lambda queue: [queue.get(timeout=LONG_S)],
}


def check_queue_ends(make: MakeEnds) -> None:
    """Have one consumer of a queue get quickly, and stop; another one must find all that is left, and then its end.

    `make(maxsize)` is called many times and returns two handles of a new queue, which may be one and the same.
    """
    for name in _WAYS:
        _check_idle(make, name, closes=False)
        _check_idle(make, name, closes=True)


def _check_idle(make: MakeEnds, name: str, *, closes: bool) -> None:
    idle, other = make(_ITEMS)
    other.put_batch(range(_ITEMS))
    got = [idle.get(timeout=LONG_S) for _ in range(_ITEMS // 5)]
    if closes:
        other.close()
    while len(got) < _ITEMS:
        try:
            got += _WAYS[name](other)
        except (Empty, QueueClosed) as error:
            story = f"{name} raised {type(error).__name__} while a consumer that is idle had {_ITEMS - len(got)} items"
            raise AssertionError(story) from error
    demand(sorted(got) == list(range(_ITEMS)), f"{name} beside an idle consumer: items were lost, or came twice")
    raises(QueueClosed if closes else Empty, other.get_nowait, "get_nowait() when all was got")
    for end in (idle, other):
        end.detach()
