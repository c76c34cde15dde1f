"""Queues that live in Ray actors: the actor owns the queue, its ends reach it without a Ray call.

Ray places the actor, tells when it is dead, and hands out addresses and keys; it carries no items. An end on the
actor's node attaches to the queue's shared memory, so there the actor is not on the way at all. Ends on other nodes
share one link from their process to the actor.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from sage.errors import MissingDependency, QueueBroken, QueueClosed, QueueError
from sage.queues import handles
from sage.queues.descriptor import Place, QueueDescriptor, check_capacity, check_name, register_kind
from sage.queues.frames import PLAIN, pack_many
from sage.queues.front import Front
from sage.queues.queue import DEFAULT_BATCH_SIZE, Empty, Full, Item, Queue
from sage.queues.shared_memory import SharedMemoryQueue
from sage.queues.shared_memory_kind import SharedMemoryQueueDescriptor
from sage.queues.watch import watch

if TYPE_CHECKING:
    from sage.queues.ray_host import Attachment  # asyncio and msgspec come with it

_PREFIX = "sage-queues-"
_DIRECTORY = "sage-queue-directory"
_ANSWER_S = 60.0
"""How long a control call to an actor may take: it may have to be started first."""


class RayQueue(Front[Item]):
    """This process's handle to a queue that a Ray actor hosts.

    When the actor dies, every call raises `QueueBroken`, also those that wait. With `patient`, it does not matter
    that the last producer or consumer died: there may be new ones.
    """

    def __init__(
        self, descriptor: RayQueueDescriptor, actor: Any, *, owns: bool = False, patient: bool = False
    ) -> None:
        from sage.queues.ray_references import Deposits, Host

        self._descriptor = descriptor
        self._owned = actor if owns else None  # the last one that holds on to an actor ends it
        self._patient = patient
        self._broken = False
        self._watched = -1
        found = answer(actor.attach.remote(descriptor.queue_id, _node()))
        self._references = Deposits(Host(*found.actor))
        self._memory = found.memory
        self.returned: deque[Item] = deque()
        """Items that were taken for somebody who did not want them after all: for the next who gets."""
        self._taking_whole = threading.Lock()
        super().__init__(_core(descriptor.queue_id, actor, found))
        if self._memory is None:
            return
        try:
            self._watched = watch.when_ended(found.process, self._host_ended)
        except ProcessLookupError:
            self._host_ended()
            raise self._broken_error() from None

    def __reduce__(self) -> tuple[Any, ...]:
        return RayQueueDescriptor.open, (self._descriptor,)

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        if type(item) in PLAIN:
            super().put(item, block, timeout)
            return
        with self._references as references:
            super().put(item if self.is_here else references.frozen(item), block, timeout)

    def put_batch(self, items: Sequence[Item], block: bool = True, timeout: float | None = None) -> None:
        with self._references as references:
            if not self.is_here:
                items = [references.frozen(item) for item in items]
            super().put_batch(items, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        if self.returned:
            with suppress(IndexError):  # another thread was quicker
                return self.returned.popleft()
        return super().get(block, timeout)

    def get_batch(self, count: int = DEFAULT_BATCH_SIZE, timeout: float | None = None) -> list[Item]:
        if self.returned and count > 0:
            with suppress(IndexError):
                return [self.returned.popleft()]
        return super().get_batch(count, timeout)

    def qsize(self) -> int:
        if self._broken:
            raise self._broken_error()
        return super().qsize() + len(self.returned)

    def put_whole(self, items: list[Item]) -> None:
        """Put all `items`, and no others between them, or none and raise `Full`; without waiting."""
        core = self._core
        try:
            core.flush()
            if items and isinstance(core, SharedMemoryQueue):
                self._put_whole_here(core, items)
            elif items:
                self._put_whole_elsewhere(core, items)
        except (QueueClosed, QueueBroken) as error:
            error.items = items
            self._follow(core, error)
            raise

    def _put_whole_here(self, core: SharedMemoryQueue[Item], items: list[Item]) -> None:
        if core.maxsize is not None and core.qsize() + len(items) > core.maxsize:
            raise Full
        with self._references:
            frame = pack_many(items, by_value=True)
            places = core.reserve(len(items))
            is_put = False
            try:
                is_put = places == len(items) and core.put_frame(frame)
            finally:
                if not is_put:
                    core.release(places)
            if not is_put:
                raise Full

    def _put_whole_elsewhere(self, core: Queue[Item], items: list[Item]) -> None:
        from sage.queues.remote.queue import RemoteQueue

        assert isinstance(core, RemoteQueue)
        with self._references as references:
            core.put_whole([references.frozen(item) for item in items])

    def get_whole(self, count: int) -> list[Item]:
        """Take exactly `count` items, or raise `Empty`; without waiting.

        Where other processes take some between a look and the get, what was taken stays with this one.
        """
        items: list[Item] = []
        with self._taking_whole:
            if self.qsize() >= count:
                with suppress(Empty):
                    while len(items) < count:
                        items.append(self.get(block=False))
            if len(items) < count:
                self.returned.extendleft(reversed(items))
                raise Empty
        return items

    @property
    def is_here(self) -> bool:
        """Whether it lies in this machine's memory, so that what does not wait takes microseconds."""
        return self._memory is not None

    def wait_for_items(self, timeout_s: float) -> None:
        """Where it is here: wait until a get may bring something, the queue was closed, or the time is over."""
        assert isinstance(self._core, SharedMemoryQueue)
        self._core.wait_for_items(timeout_s)

    def wait_for_room(self, timeout_s: float) -> None:
        """The same for a put."""
        assert isinstance(self._core, SharedMemoryQueue)
        self._core.wait_for_room(timeout_s)

    def detach(self) -> None:
        watch.end(self._watched)
        self._watched = -1
        handles.forget(self)
        try:
            self._core.detach()
        finally:
            self._owned = None

    def _host_ended(self) -> None:
        """Nobody owns the memory any more. Whoever waits is woken by the close."""
        self._broken = True
        assert self._memory is not None
        self._memory.path.unlink(missing_ok=True)
        with suppress(QueueError):  # E515: what waited in this process is lost, as is what was in the queue
            self._core.close()
            self._core.detach()
        handles.forget(self)

    def _follow(self, core: Queue[Item], error: QueueClosed | QueueBroken) -> None:
        if self._broken or watch.has_ended(self._watched):  # it was closed by another end that saw it first
            raise self._broken_error(error.items) from None
        if isinstance(error, QueueClosed) or not self._patient or self._memory is None:
            raise error

    def _broken_error(self, items: Sequence[object] = ()) -> QueueBroken:
        error = QueueBroken("E506", "the actor that hosts the queue died", at=f"queue {self._descriptor.queue_id}")
        error.items = items
        return error


def _core(queue_id: str, actor: Any, found: Attachment) -> Queue[Any]:
    """The way to the queue from here."""
    if found.memory is not None:
        return found.memory.open()
    from sage.queues.remote.link import Link, link_to, pooled
    from sage.queues.remote.queue import RemoteQueue

    if found.address is not None:
        return RemoteQueue(link_to(found.address, found.key), queue_id, by_value=True)
    from sage.queues.ray_calls import CallsConnection

    connect = partial(CallsConnection, actor)
    link = pooled((*found.actor, found.process), lambda: Link(connect, f"actor {found.actor[0]}"))
    return RemoteQueue(link, queue_id, by_value=True)


@register_kind
@dataclass(frozen=True, kw_only=True)
class RayQueueDescriptor(QueueDescriptor):
    """A queue that a Ray actor hosts, for all tasks and actors of a namespace.

    It is created on the node of the process that creates it; let the consumer do that. It ends with that process, or
    when its handle there is detached.
    """

    kind: ClassVar[str] = "ray"
    cost: ClassVar[int] = 40

    max_bytes: int = 64 * 1024 * 1024
    """How many bytes of large items fit."""
    host: str | None = None
    """The name of the actor, which may host several queues. None: an actor of its own."""
    namespace: str | None = None
    """The Ray namespace of the actor. None: that of whoever creates or opens the queue."""
    ports: bool = True
    """Whether the actor may listen on its node's address, for ends on other nodes. Otherwise they call it: slow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_capacity("max_bytes", self.max_bytes, at=f"queue {self.queue_id}")
        if self.host is not None:
            check_name(self.host)
        if self.namespace is not None:
            check_name(self.namespace)
        if not isinstance(self.ports, bool):
            raise QueueError("E522", "a field does not fit", at="$.ports", got=self.ports, expected="true or false")

    @classmethod
    def refusal(cls, producer: Place, consumer: Place) -> str | None:
        try:
            import ray
        except ImportError:
            return "Ray is not installed"
        return None if ray.is_initialized() else "Ray is not running in this process"

    @property
    def actor_name(self) -> str:
        """The name of the actor that hosts the queue."""
        return f"{_PREFIX}{self.host or self.queue_id}"

    def start(self, **options: Any) -> Any:
        """A new actor that hosts the queue: on this node and without a processor of its own, unless `options` of Ray
        say otherwise. Raises `ValueError` where its name is taken. It ends with the last handle to it.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from sage.queues.ray_host import RayQueueManager

        require_ray()
        usual = {
            "name": self.actor_name,
            "namespace": self.namespace,
            "num_cpus": 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(_node(), soft=False),
        }
        first = None if self.host else self._hosted.to_json()
        return ray.remote(RayQueueManager).options(**usual | options).remote(first, ports=self.ports)

    @property
    def _hosted(self) -> SharedMemoryQueueDescriptor:
        """What the actor makes, with a token of its own."""
        return SharedMemoryQueueDescriptor(
            queue_id=self.queue_id, maxsize=self.maxsize, max_bytes=self.max_bytes, by_value=True
        )

    def _make(self) -> RayQueue[Any]:
        try:
            actor = self.start(get_if_exists=self.host is not None)
        except ValueError as error:
            raise QueueError("E503", "this queue exists already", at=f"queue {self.queue_id}") from error
        if self.host is not None:
            answer(actor.host.remote(self._hosted.to_json()))
        return RayQueue(self, actor, owns=True)

    def _attach(self) -> RayQueue[Any]:
        require_ray()
        import ray

        try:
            actor = ray.get_actor(self.actor_name, self.namespace)
        except ValueError:
            raise self.missing(f"there is no actor {self.actor_name}") from None
        return RayQueue(self, actor)


def get_global_queue_manager() -> Any:
    """The actor that knows every queue of this namespace (`RayQueueDirectory`): started here if there is none.

    It is detached: it stays when this process ends. No item ever goes through it, and nothing depends on it.
    """
    require_ray()
    import ray

    from sage.queues.ray_host import RayQueueDirectory

    return (
        ray.remote(RayQueueDirectory)
        .options(name=_DIRECTORY, lifetime="detached", get_if_exists=True, num_cpus=0, max_restarts=-1)
        .remote(_PREFIX)
    )


def require_ray() -> None:
    """Raise unless this process is part of a Ray cluster."""
    try:
        import ray
    except ImportError:
        raise MissingDependency("ray", "ray", "a Ray queue") from None
    if not ray.is_initialized():
        raise QueueError("E511", "this process is not part of a Ray cluster", try_="ray.init()")


def answer(call: Any) -> Any:
    """The answer to a control call. Raises the actor's own `QueueError`, or `QueueBroken` where the actor is dead."""
    import ray

    try:
        return ray.get(call, timeout=_ANSWER_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, QueueError):
            raise error.cause from None
        raise
    except ray.exceptions.GetTimeoutError as error:
        raise QueueError("E504", f"the actor did not answer within {_ANSWER_S:.0f} s") from error
    except ray.exceptions.RayActorError as error:
        raise QueueBroken("E506", "the actor that hosts the queue died") from error


def _node() -> str:
    """The id of the node that this process is on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node
