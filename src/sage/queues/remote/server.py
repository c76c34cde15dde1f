"""A server: lets other processes that know its key reach queues of this one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from sage.errors import QueueError
from sage.queues.remote.link import PATIENCE_S
from sage.queues.remote.messages import Attach, Attached, Detach, Message, Refused, decode, encode, short
from sage.queues.remote.ports import Port
from sage.queues.remote.sending import WINDOW_BYTES
from sage.queues.remote.service import Service
from sage.queues.remote.stream import ACKNOWLEDGE_BYTES, ID_BYTES, NOBODY, Header, Sort, Stream, split
from sage.queues.remote.transport import Listener, Parts
from sage.queues.serving import Served

_LOOK_S = 0.5
_SILENT_S = 0.5  # so long after its last sign of life a client that holds something is asked for one
_LOST_S = 2.0  # how long a client whose connection ended has to come back
Listen: TypeAlias = Callable[[], Listener]


class QueueServer:
    """Serves queues until it is closed. Every method may be called from any thread."""

    def __init__(
        self,
        key: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        patience_s: float = PATIENCE_S,
        listen: Listen | None = None,
    ) -> None:
        """Listen at `host` and `port` (0: a free one), or on what `listen` makes. Raises E503 where that is taken.

        A client is given up from which nothing was heard for `patience_s`, or whose connection ended and which did not
        come back within some two seconds: what it held is free again.
        """
        self._listener = listen() if listen is not None else _zeromq(key, host, port)
        self._patience_s = patience_s
        self._life = b"\1" + os.urandom(ID_BYTES - 1)
        self._services: dict[str, Service] = {}
        self._clients: dict[bytes, Client] = {}
        self._ending = False
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._run, name="sage-queue-server", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.address

    def serve(self, queue_id: str, queue: Served) -> None:
        """Let clients attach to `queue`. Raises E503 if a queue of this id is served."""
        if queue_id in self._services:
            raise QueueError("E503", "a queue of this id is served already", at=f"queue {queue_id}")
        self._services[queue_id] = Service(queue, self._listener.wake)

    def withdraw(self, queue_id: str) -> None:
        """Serve a queue no more: its clients get `QueueBroken`. Does nothing if it is not served."""
        service = self._services.pop(queue_id, None)
        if service is not None:
            service.close()

    def close(self) -> None:
        """End: clients get `QueueBroken`, but for consumers that have all there was."""
        if self._ending:
            return
        for queue_id in list(self._services):
            self.withdraw(queue_id)
        self._ending = True
        self._listener.wake()
        self._thread.join()

    # --- the server's thread ---

    def _run(self) -> None:
        try:
            while not self._ending:
                came = self._listener.receive(self._tick(time.monotonic()))
                while came is not None:
                    self._take(*came)
                    came = self._listener.receive(0.0)
                self._acknowledge()
        finally:
            for client in list(self._clients.values()):
                client.tell(Sort.BYE)
            self._listener.close()

    def _tick(self, now: float) -> float:
        """Do what is due; returns how long to sleep."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            for client in list(self._clients.values()):
                if now - client.heard_at > self._patience_s or client.is_lost(now):
                    self._forget(client)
        due = min([service.tick(now) for service in list(self._services.values())], default=now + _LOOK_S)
        return max(0.0, min(due, self._look_at) - now)

    def _take(self, peer: bytes, parts: Parts) -> None:
        found = split(parts[0])
        if found is None:
            return
        header, body = found
        if header.session != peer:  # a name belongs to one session
            return
        client = self._client_of(header)
        if client is None:
            gone = Header(Sort.GONE, peer, self._life, 0, 0)
            self._listener.send(peer, [gone.pack()])
        elif header.sort is Sort.BYE:
            self._forget(client)
        elif client.receive(header, sum(len(part) for part in parts)):
            try:
                self._handle(client, decode(body, parts[1:]), parts[1:])
            except QueueError:  # nobody else is to pay for what this client sends
                client.tell(Sort.GONE)
                self._forget(client)

    def _client_of(self, header: Header) -> Client | None:
        """Who sent it; a new client, if it does not know our life yet; None for one of another life, or given up."""
        known = self._clients.get(header.session)
        if known is None and header.life == NOBODY and header.sort is Sort.PING:
            known = self._clients[header.session] = Client(self._listener, header.session, self._life)
        return known if header.life in {NOBODY, self._life} else None

    def _handle(self, client: Client, message: Message, parts: Parts) -> None:
        if isinstance(message, Attach):
            self._attach(client, message)
            return
        port = client.ports.get(message.port)
        if port is None:  # withdrawn meanwhile
            return
        if isinstance(message, Detach):
            del client.ports[message.port]
            port.service.detach(port)
        else:
            port.service.handle(port, message, parts)

    def _attach(self, client: Client, message: Attach) -> None:
        service = self._services.get(message.queue_id)
        if service is None or message.port in client.ports:
            client.send(Refused(message.port, "E504", short(f"the server has no queue {message.queue_id}")))
            return
        client.send(Attached(message.port, service.queue.maxsize, service.queue.max_bytes))
        client.ports[message.port] = service.attach(Port(service, client, message.port))

    def _acknowledge(self) -> None:
        for client in list(self._clients.values()):
            client.acknowledge()

    def _forget(self, client: Client) -> None:
        del self._clients[client.stream.session]
        for port in client.ports.values():
            port.service.detach(port)


class Client:
    """One session, as the server sees it."""

    def __init__(self, listener: Listener, session: bytes, life: bytes) -> None:
        self.stream = Stream(session, life)
        self.ports: dict[int, Port] = {}
        self.heard_at = time.monotonic()
        self._unreachable_since: float | None = None
        self._listener = listener
        self._lock = threading.Lock()

    @property
    def is_congested(self) -> bool:
        """Whether as much is on its way as may be."""
        return self.stream.unacknowledged_bytes > WINDOW_BYTES

    def send(self, message: Message, parts: Parts = ()) -> None:
        """Send `message`, once and in order. Never waits."""
        with self._lock:
            self._listener.send(self.stream.session, self.stream.send(encode(message), parts))

    def tell(self, sort: Sort) -> None:
        """Send what is not repeated."""
        with self._lock:
            self._listener.send(self.stream.session, self.stream.tell(sort))

    def receive(self, header: Header, size_bytes: int) -> bool:
        """Whether it is the next message. On the server's thread."""
        self.heard_at = now = time.monotonic()
        was_congested = self.is_congested
        with self._lock:
            is_next, replies = self.stream.receive(header, size_bytes, now)
            for reply in replies:
                self._listener.send(self.stream.session, reply)
            if header.sort is Sort.PING and self.stream.pending:
                self._listener.send(self.stream.session, self.stream.ping(now))
        if was_congested and not self.is_congested:
            for port in self.ports.values():
                port.service.resume()
        return is_next

    def is_lost(self, now: float) -> bool:
        """Whether its connection ended, and it did not come back. Asks for a sign of life where that matters."""
        if now - self.heard_at < _SILENT_S or not any(port.holds_something for port in self.ports.values()):
            self._unreachable_since = None
            return False
        with self._lock:
            is_connected = self._listener.send(self.stream.session, self.stream.ping(now))
        if is_connected:
            self._unreachable_since = None
        elif self._unreachable_since is None:
            self._unreachable_since = now
        return self._unreachable_since is not None and now - self._unreachable_since >= _LOST_S

    def acknowledge(self) -> None:
        """Tell what was received, if it is much."""
        if self.stream.received_bytes > ACKNOWLEDGE_BYTES:
            self.tell(Sort.PONG)


def _zeromq(key: str, host: str, port: int) -> Listener:
    from sage.queues.remote.zeromq import ZeroMQListener

    return ZeroMQListener(key, host, port)
