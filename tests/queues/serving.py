"""A server and its clients, all in this process."""

from __future__ import annotations

import secrets
from typing import Any

import zmq

from sage.queues import LocalQueue
from sage.queues.measured import MeasuredQueue
from sage.queues.remote.keys import new_key
from sage.queues.remote.link import Link
from sage.queues.remote.queue import RemoteQueue
from sage.queues.remote.server import QueueServer
from sage.queues.remote.zeromq import ZeroMQConnection

KEY = new_key()


def start_collector_of_pyzmq() -> None:
    """pyzmq keeps one for the process, from the first large message on: it is not what a test left behind."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://large")
        there.connect("inproc://large")
        here.send(bytes(1 << 20), copy=False)
        there.recv()


class Served:
    """A server, and clients that have nothing in common."""

    def __init__(self, patience_s: float = 30.0) -> None:
        self.server = QueueServer(KEY, patience_s=patience_s)
        self.patience_s = patience_s
        self._handles: list[RemoteQueue[Any]] = []

    def queue(self, maxsize: int | None = 1_000, max_bytes: int | None = None) -> LocalQueue[Any]:
        """A new queue, which is served as its own id."""
        queue_id = f"q-{secrets.token_hex(8)}"
        queue: LocalQueue[Any] = LocalQueue(maxsize, queue_id=queue_id)
        if max_bytes is not None:
            queue = MeasuredQueue(maxsize, max_bytes, queue_id=queue_id)
        self.server.serve(queue_id, queue)
        return queue

    def open(self, queue: LocalQueue[Any] | str, address: tuple[str, int] | None = None) -> RemoteQueue[Any]:
        """A handle on a link of its own; `queue` or its id."""
        host, port = address or self.server.address
        link = Link(lambda name: ZeroMQConnection(host, port, KEY, name), f"{host}:{port}", patience_s=self.patience_s)
        handle: RemoteQueue[Any] = RemoteQueue(link, queue if isinstance(queue, str) else queue._queue_id)
        self._handles.append(handle)
        return handle

    def close(self) -> None:
        for handle in self._handles:
            handle.detach()
        self.server.close()
