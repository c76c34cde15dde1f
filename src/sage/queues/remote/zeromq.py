"""The transport over TCP: ZeroMQ sockets with CURVE. Both ends prove that they know the secret, and all is encrypted.

A socket is used by several threads, one at a time, under a lock. Only one of them receives; it sleeps on the socket's
descriptor without the lock. That descriptor tells of changes, not of a state, and a thread that sends may use a change
up: so whoever sends looks whether something can be received, and then wakes the other.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from sage.errors import QueueError
from sage.queues.remote.keys import derived
from sage.queues.remote.transport import Parts

MAX_PART_BYTES = 2**31
_MORE = zmq.DONTWAIT | zmq.SNDMORE
_COPIED_BYTES = 64 * 1024  # ZeroMQ keeps no references to less
_LINGER_MS = 1_000
_RECONNECT_MS = 20
_RECONNECT_MAX_MS = 250
_PROBE_S = 0.25
_REFUSED_S = 1.0
_HANDSHAKES = 3  # that failed in a row, before the first that did not
_ZAP = "inproc://zeromq.zap.01"
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)


def _pair(key: str, side: str) -> tuple[bytes, bytes]:
    """The public and the secret key of a side, in ZeroMQ's text form."""
    secret = z85.encode(derived(key, f"sage {side}"))
    return zmq.curve_public(secret), secret


def _option(of: zmq.Socket[bytes], option: int) -> int:
    """A number that ZeroMQ tells about a socket."""
    value = of.getsockopt(option)
    assert isinstance(value, int)
    return value


class _Socket:
    """A ZeroMQ socket that one thread receives from, and any thread sends through."""

    def __init__(self, kind: int) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.set_hwm(0)  # what is on its way is bounded above, in bytes
        self._socket.linger = _LINGER_MS
        self._socket.maxmsgsize = MAX_PART_BYTES
        self._lock = threading.Lock()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._asleep = False
        self._closed = False

    def _start(self, beside: zmq.Socket[bytes]) -> None:
        self._beside = _option(beside, zmq.FD)
        for descriptor in (_option(self._socket, zmq.FD), self._beside, self._bell):
            self._poll.register(descriptor, select.POLLIN)

    def wake(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._bell, 1)

    def _send(self, parts: Parts, not_connected: int) -> bool:
        with self._lock:
            if self._closed:
                return False
            send, last = self._socket.send, len(parts) - 1
            try:
                for index, part in enumerate(parts):
                    flags = zmq.DONTWAIT if index == last else _MORE
                    send(part, flags, copy=len(part) < _COPIED_BYTES)
            except zmq.ZMQError as error:
                if error.errno != not_connected:
                    raise
                return False
            if self._asleep and _option(self._socket, zmq.EVENTS) & zmq.POLLIN:
                os.eventfd_write(self._bell, 1)
            return True

    def _receive(self, timeout_s: float) -> list[Any] | None:
        if timeout_s <= 0 or not self._asleep:
            parts = self._receive_now()
            if parts is not None or timeout_s <= 0:
                return parts
        try:
            events = self._poll.poll(timeout_s * 1000)
        finally:
            self._asleep = False
        for descriptor, _ in events:
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
            elif descriptor == self._beside:
                self._look()
        return self._receive_now()

    def _receive_now(self) -> list[Any] | None:
        with self._lock:
            try:
                first = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                self._asleep = True
                return None
            parts: list[Any] = [first]
            more = self._socket.getsockopt(zmq.RCVMORE)
            while more:
                frame = self._socket.recv(copy=False)
                parts.append(frame.buffer)
                more = frame.more
            return parts

    def _look(self) -> None:
        """What came beside the messages. That socket's descriptor tells of changes too: nothing may be left there."""
        raise NotImplementedError

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._socket.close()
            os.close(self._bell)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ZeroMQConnection(_Socket):
    """The client's end of a connection to the server at `host` and `port`."""

    def __init__(self, host: str, port: int, key: str, name: bytes) -> None:
        super().__init__(zmq.DEALER)
        self._host, self._port = host, port
        ours = self._socket
        ours.routing_id = name
        ours.immediate = True  # what is sent while there is no connection is sent again by the stream, not here
        ours.reconnect_ivl, ours.reconnect_ivl_max = _RECONNECT_MS, _RECONNECT_MAX_MS
        ours.curve_publickey, ours.curve_secretkey = _pair(key, "client")
        ours.curve_serverkey = _pair(key, "server")[0]
        self._monitor = ours.get_monitor_socket(_EVENTS)
        self._was_accepted = False
        self._refusals = 0
        self._down = True
        self._refused_at: float | None = None
        self._probe_at = 0.0
        self._start(self._monitor)
        ours.connect(f"tcp://{host}:{port}")

    def send(self, parts: Parts) -> None:
        self._send(parts, zmq.EAGAIN)

    def receive(self, timeout_s: float) -> Parts | None:
        return self._receive(timeout_s)

    def failure(self) -> str | None:
        if not self._was_accepted and self._refusals >= _HANDSHAKES:
            return "the server does not accept the key, or is none of SAGE's"
        now = time.monotonic()
        if not self._down or now < self._probe_at:
            return None
        self._probe_at = now + _PROBE_S
        if not self._is_refused():
            self._refused_at = None
        elif self._refused_at is None:
            self._refused_at = now
        if self._refused_at is None or (self._was_accepted and now - self._refused_at < _REFUSED_S):
            return None
        return "nobody listens there"

    def close(self) -> None:
        if not self._closed:
            self._socket.disable_monitor()
            self._monitor.close()
        super().close()

    def _look(self) -> None:
        """What happened to the connection since the last look."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._was_accepted, self._down, self._refused_at = True, False, None
                continue
            self._down = True
            if event not in {zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED}:
                self._refusals += 1

    def _is_refused(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=_PROBE_S).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # no answer, or no way: that may pass
            return False
        return False


class ZeroMQListener(_Socket):
    """The server's end: accepts those who know `key`. Raises `QueueError` E503 where the port is taken."""

    def __init__(self, key: str, host: str, port: int) -> None:
        super().__init__(zmq.ROUTER)
        ours = self._socket
        ours.router_mandatory = True
        ours.router_handover = True  # a client that reconnects is quicker than the news that it was disconnected
        ours.curve_server = True
        ours.curve_secretkey = _pair(key, "server")[1]
        ours.zap_domain = b"sage"
        self._client_key = z85.decode(_pair(key, "client")[0])
        self._zap: zmq.Socket[bytes] = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP)
        self._start(self._zap)
        try:
            ours.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise QueueError("E503", f"cannot listen ({error})", at=f"{host}:{port}") from error
        end = str(ours.getsockopt_string(zmq.LAST_ENDPOINT))
        self._address = host, int(end.rpartition(":")[2])

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    def send(self, peer: bytes, parts: Parts) -> bool:
        return self._send((peer, *parts), zmq.EHOSTUNREACH)

    def receive(self, timeout_s: float) -> tuple[bytes, Parts] | None:
        parts = self._receive(timeout_s)
        if parts is None:
            return None
        peer, first, *rest = parts if len(parts) > 1 else (*parts, b"")
        return peer, (bytes(first), *rest)

    def close(self) -> None:
        if not self._closed:
            self._zap.close()
        super().close()

    def _look(self) -> None:
        """Answer ZeroMQ's question who may connect (ZAP, RFC 27): who proved to have the clients' key."""
        while _option(self._zap, zmq.EVENTS) & zmq.POLLIN:
            version, request, _domain, _address, _name, mechanism, *credentials = self._zap.recv_multipart()
            is_ours = mechanism == b"CURVE" and credentials == [self._client_key]
            verdict = (b"200", b"OK") if is_ours else (b"400", b"refused")
            self._zap.send_multipart((version, request, *verdict, b"", b""))
