"""The actors: those that own queues, and the one that knows them all. Imported where they run, and where they start."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray

from sage.errors import QueueError, SageError
from sage.queues.queue import QueueStats
from sage.queues.ray_calls import CallsListener
from sage.queues.remote.keys import new_key
from sage.queues.remote.server import QueueServer
from sage.queues.shared_memory import SharedMemoryQueue
from sage.queues.shared_memory_kind import SharedMemoryQueueDescriptor

_STATS_S = 2.0
_COLLECT_S = 30.0
_log = logging.getLogger(__name__)


class Attachment(NamedTuple):
    """How an end reaches a hosted queue. It came through Ray, so both know that the other is of this cluster."""

    actor: tuple[str, str]
    """Its name and namespace."""
    process: int
    memory: SharedMemoryQueueDescriptor | None = None
    """For ends on the actor's node."""
    address: tuple[str, int] | None = None
    """For ends on other nodes: where the actor listens. None: messages go in calls."""
    key: str = ""


class RayQueueManager:
    """The class of the actors that own queues. An actor that ends takes its queues with it; Ray does not restart it.

    Its methods are control calls. Items go by `deliver` and `collect` only, and only where there is no port.
    """

    def __init__(self, first: str | None = None, *, ports: bool = True) -> None:
        self._queues: dict[str, tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]] = {}
        self._ports = ports
        self._key = new_key()
        self._server: QueueServer | None = None
        self._calls: CallsListener | None = None
        self._references: dict[str, asyncio.Future[Any]] = {}
        if first is not None:
            self.host(first)

    def host(self, memory: str) -> None:
        """Make and own the queue that `memory`, a descriptor as JSON, describes. Raises E503 where it is here."""
        descriptor = SharedMemoryQueueDescriptor.from_json(memory)
        queue = descriptor.create()
        assert isinstance(queue, SharedMemoryQueue)
        self._queues[descriptor.queue_id] = descriptor, queue
        if self._server is not None:
            self._server.serve(descriptor.queue_id, queue)

    def attach(self, queue_id: str, node: str) -> Attachment:
        """How to reach the queue from `node`. Raises E504 where it is not here."""
        memory, _ = self._hosted(queue_id)
        here = ray.get_runtime_context()
        found = Attachment((here.get_actor_name() or "", here.namespace), os.getpid())
        if node == here.get_node_id():
            return found._replace(memory=memory)
        if self._server is None:
            self._server = self._serve()
        return found if self._calls else found._replace(address=self._server.address, key=self._key)

    def withdraw(self, queue_id: str) -> None:
        """End the queue: it is closed, and what is in it is dropped."""
        _, queue = self._hosted(queue_id)
        del self._queues[queue_id]
        if self._server is not None:
            self._server.withdraw(queue_id)
        queue.close()
        queue.detach()

    def get_stats(self) -> dict[str, QueueStats]:
        """The figures of every queue. Puts and gets are counted at the ends, so here only `depth` says something."""
        return {queue_id: queue.get_stats() for queue_id, (_, queue) in self._queues.items()}

    def qsize(self) -> int:
        """Items in all queues of the actor."""
        return sum(queue.qsize() for _, queue in self._queues.values())

    def empty(self) -> bool:
        """Whether there are none."""
        return self.qsize() == 0

    async def deposit(self, tokens: Sequence[str], references: Sequence[Any]) -> None:
        """Hold references to objects, until they are called for."""
        for token, reference in zip(tokens, references, strict=True):
            self._reference(token).set_result(reference)

    async def redeem(self, token: str) -> list[Any]:
        """The reference that was or will be deposited under `token`, once."""
        reference = await asyncio.wait_for(asyncio.shield(self._reference(token)), _COLLECT_S)
        del self._references[token]
        return [reference]

    async def deliver(self, client: bytes, number: int, messages: Any) -> None:
        """Messages for the server; see `ray_calls`."""
        assert self._calls is not None
        self._calls.deliver(client, number, messages)

    async def collect(self, client: bytes) -> Any:
        """Messages from the server, when there are any."""
        assert self._calls is not None
        return await self._calls.collect(client)

    async def leave(self, client: bytes) -> None:
        """The client collects no more."""
        assert self._calls is not None
        self._calls.leave(client)

    def _reference(self, token: str) -> asyncio.Future[Any]:
        if token not in self._references:
            self._references[token] = asyncio.get_running_loop().create_future()
        return self._references[token]

    def _hosted(self, queue_id: str) -> tuple[SharedMemoryQueueDescriptor, SharedMemoryQueue[Any]]:
        if queue_id not in self._queues:
            raise QueueError("E504", "this actor hosts no such queue", at=f"queue {queue_id}")
        return self._queues[queue_id]

    def _serve(self) -> QueueServer:
        server = self._server_at_a_port() if self._ports else None
        if server is None:
            self._calls = calls = CallsListener()
            server = QueueServer(self._key, listen=lambda: calls)
        for queue_id, (_, queue) in self._queues.items():
            server.serve(queue_id, queue)
        return server

    def _server_at_a_port(self) -> QueueServer | None:
        try:
            return QueueServer(self._key, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        except (ImportError, SageError) as error:
            _log.warning("other nodes reach queues by calls of their actor, which is slow: %s", error)
            return None


class RayQueueDirectory:
    """The class of the actor that knows the hosts of a namespace. It keeps nothing: it asks Ray for the names."""

    def __init__(self, prefix: str) -> None:
        """The names of hosts begin with `prefix`."""
        self._prefix = prefix

    def find(self) -> dict[str, list[str]]:
        """The ids of the queues of every host that answers, by the host's name."""
        return {name: list(stats) for name, stats in self._asked().items()}

    def get_stats(self) -> dict[str, QueueStats]:
        """The figures of every queue, by its id."""
        return {queue_id: stats for found in self._asked().values() for queue_id, stats in found.items()}

    def _asked(self) -> dict[str, dict[str, QueueStats]]:
        names = [name for name in ray.util.list_named_actors() if name.startswith(self._prefix)]
        calls: dict[str, Any] = {}
        for name in names:
            try:
                calls[name] = ray.get_actor(name).get_stats.remote()
            except ValueError:  # it ended just now
                continue
        found = {}
        if calls:
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=_STATS_S)
        for name, call in calls.items():
            try:
                found[name] = ray.get(call, timeout=0)
            except ray.exceptions.RayError:  # the same, or it is too busy to say
                continue
        return found
