"""A drop-in for `ray.util.queue`: change the import, and puts and gets no longer are calls of an actor.

::

    from sage.queues.ray import Queue       # instead of: from ray.util.queue import Queue

`Queue` is what Ray's is, `Empty` and `Full` are Ray's own. Beside it: `RayQueueDescriptor`, the same queues with the
contract of `sage.queues.Queue`; `RayQueueManager`, the class of the actors that own them; `get_global_queue_manager`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.queue import Empty, Full

from sage.errors import QueueBroken
from sage.queues import handles, queue
from sage.queues.coroutines import Waiting
from sage.queues.queue import DEFAULT_BATCH_SIZE, QueueStats, closed_error, deadline_of
from sage.queues.ray_host import RayQueueManager
from sage.queues.ray_kind import RayQueue, RayQueueDescriptor, get_global_queue_manager

__all__ = [
    "Queue",
    "Empty",
    "Full",
    "QueueActorDied",
    "RayQueue",
    "RayQueueDescriptor",
    "RayQueueManager",
    "get_global_queue_manager",
]

_TURN_S = 0.5
_Result = TypeVar("_Result")


class QueueActorDied(QueueBroken, RayActorError):
    """The actor that owns the queue is dead, and with it what was in the queue."""

    def __init__(self, error: QueueBroken) -> None:
        QueueBroken.__init__(self, error.code, error.what, at=error.at, try_=error.try_)
        self.items = error.items


class Queue:
    """`ray.util.queue.Queue`, some thousand times as fast; for what each method does see there.

    An actor of its own owns the queue, with the options given. It may be passed to tasks and actors, and lives as long
    as anybody has it. What a process put that is killed within `linger_ms` after it is lost with the process.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        if not ray.is_initialized():
            ray.init()  # as Ray's own does
        self.maxsize = maxsize
        self._descriptor = RayQueueDescriptor(maxsize=maxsize if maxsize > 0 else None)
        self.actor: Any = self._descriptor.start(**actor_options or {})
        self._not_open()

    def _not_open(self) -> None:
        self._handle: RayQueue[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"maxsize": self.maxsize, "actor": self.actor, "_descriptor": self._descriptor}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._not_open()

    @property
    def _queue(self) -> RayQueue[Any]:
        return self._handle or self._opened()

    def _opened(self) -> RayQueue[Any]:
        if self.actor is None:
            raise closed_error(self._descriptor.queue_id)
        try:
            found = handles.open_(self._descriptor, lambda: RayQueue(self._descriptor, self.actor, patient=True))
        except QueueBroken as error:
            raise _rays_own(error) from None
        assert isinstance(found, RayQueue)
        self._items, self._room = Waiting(found.wait_for_items), Waiting(found.wait_for_room)
        self._handle = found
        return found

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items are in the queue."""
        try:
            return self._queue.qsize()
        except QueueBroken as error:
            raise _rays_own(error) from None

    def qsize(self) -> int:
        """How many items are in the queue."""
        return self.size()

    def empty(self) -> bool:
        """Whether there are none."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room; never, where `maxsize` is not positive."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add `item`; with `block`, wait for room, at most `timeout` seconds. Raises `Full`."""
        try:
            self._queue.put(item, block, timeout)
        except (queue.Full, QueueBroken) as error:
            raise _rays_own(error) from None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item; with `block`, wait for one, at most `timeout` seconds. Raises `Empty`."""
        try:
            return self._queue.get(block, timeout)
        except (queue.Empty, QueueBroken) as error:
            raise _rays_own(error) from None

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines: the others go on while it waits.

        From another node than the queue's, an item may be put although the coroutine was cancelled.
        """
        if await self._is_here():
            await _attempt(lambda: self.put(item, block=False), Full, lambda: self._room, block, timeout)
        else:
            await self._on_a_thread(lambda wait_s: self.put(item, block, wait_s), Full, block, timeout)

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines: the others go on while it waits, and nothing is lost where it is cancelled."""
        if await self._is_here():
            return await _attempt(lambda: self.get(block=False), Empty, lambda: self._items, block, timeout)
        (item,) = await self._on_a_thread(lambda wait_s: (self.get(block, wait_s),), Empty, block, timeout)
        return item

    async def _is_here(self) -> bool:
        """Whether the queue lies in this machine's memory. To open it may take as long as its actor takes to start."""
        if self._handle is None:
            await asyncio.to_thread(self._opened)
        return self._queue.is_here

    async def _on_a_thread(
        self, call: Callable[[float], _Result], nothing: type[Exception], block: bool, timeout: float | None
    ) -> _Result:
        """Call until it brings something, in short turns: so many threads serve any number of coroutines."""
        deadline = deadline_of(timeout if block else 0.0, time.monotonic())
        while True:
            left = _TURN_S if deadline is None else max(0.0, deadline - time.monotonic())
            turn = asyncio.get_running_loop().run_in_executor(None, call, min(left, _TURN_S))
            try:
                return await asyncio.shield(turn)
            except nothing:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            except asyncio.CancelledError:
                turn.add_done_callback(self._keep)
                raise

    def _keep(self, turn: asyncio.Future[Any]) -> None:
        """The turn of a coroutine that was cancelled ended."""
        if turn.exception() is None and turn.result() is not None:
            self._queue.returned.append(turn.result()[0])

    def put_nowait(self, item: Any) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """`get` without waiting."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all `items`, in order, without waiting, or none: raises `Full` where there is no room for all."""
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        found = list(items)
        try:
            self._queue.put_whole(found)
        except (queue.Full, QueueBroken) as error:
            raise _rays_own(error) from None

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take exactly `num_items` without waiting, or none: raises `Empty` where there are fewer."""
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        try:
            return self._queue.get_whole(num_items)
        except (queue.Empty, QueueBroken) as error:
            raise _rays_own(error) from None

    def put_batch(self, items: Sequence[Any], block: bool = True, timeout: float | None = None) -> None:
        """Add all `items`, in order, as room allows. Raises `sage.queues.BatchFull` with those not put."""
        try:
            self._queue.put_batch(items, block, timeout)
        except QueueBroken as error:
            raise _rays_own(error) from None

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Any]:
        """Wait for one item, then take up to `count` that are there. Raises `Empty`."""
        try:
            return self._queue.get_batch(count, timeout)
        except (queue.Empty, QueueBroken) as error:
            raise _rays_own(error) from None

    def flush(self) -> None:
        """Send what waits in this process for company. It leaves by itself after `linger_ms`."""
        self._queue.flush()

    def get_stats(self) -> QueueStats:
        """What this process did with the queue."""
        return self._queue.get_stats()

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor, and with it the queue, for everybody; with `force`, kill it at once."""
        actor, self.actor = self.actor, None
        if actor is None:
            return
        self._not_open()
        if force or not ray.wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)[0]:
            ray.kill(actor, no_restart=True)


def _rays_own(error: Exception) -> Exception:
    """What Ray's queue raises where ours raises `error`."""
    if isinstance(error, QueueBroken):
        return QueueActorDied(error)
    return Full() if isinstance(error, queue.Full) else Empty()


async def _attempt(
    attempt: Callable[[], _Result],
    nothing: type[Exception],
    waiting: Callable[[], Waiting],
    block: bool,
    timeout: float | None,
) -> _Result:
    """Attempt until it brings something, or the time is over."""
    deadline = deadline_of(timeout if block else 0.0, time.monotonic())
    while True:
        try:
            return attempt()
        except nothing:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise
        try:
            await waiting().for_change(left)
        except TimeoutError:
            raise nothing from None
