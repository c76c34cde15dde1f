"""The transport that needs no port: messages in calls of the actor that hosts the queues, many to a call, many calls
under way.

A call costs about a millisecond of processor time, whatever it carries. So what is to be sent while the calls that
are allowed are under way waits, and leaves in the next call together. Calls may overtake one another; messages do not.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from sage.queues.remote.transport import Parts

_DELIVERIES = 8
"""Calls under way with messages for the actor."""
_COLLECTIONS = 4
"""Calls under way that wait for messages from it."""
_Value = TypeVar("_Value")
_Messages = list[list[bytes]]


class _InOrder(Generic[_Value]):
    """Brings numbered things back into their order."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, _Value] = {}

    def add(self, number: int, value: _Value) -> list[_Value]:
        """What is due now that `value` came."""
        self._early[number] = value
        due = []
        while self._next in self._early:
            due.append(self._early.pop(self._next))
            self._next += 1
        return due


class CallsConnection:
    """The client's end: a `Connection`."""

    def __init__(self, actor: Any, name: bytes) -> None:
        self._actor, self._name = actor, name
        self._lock = threading.Lock()
        self._unsent: _Messages = []
        self._number = 0
        self._under_way = 0
        self._events: queue.SimpleQueue[tuple[bool, Future[Any]] | None] = queue.SimpleQueue()
        self._order: _InOrder[_Messages] = _InOrder()
        self._received: deque[list[bytes]] = deque()
        self._failure: str | None = None
        for _ in range(_COLLECTIONS):
            self._collect()

    def send(self, parts: Parts) -> None:
        with self._lock:
            self._unsent.append([bytes(part) for part in parts])
            if self._under_way < _DELIVERIES:
                self._deliver()

    def receive(self, timeout_s: float) -> Parts | None:
        if not self._received:
            try:
                event = self._events.get(timeout=max(0.0, timeout_s))
            except queue.Empty:
                return None
            if event is not None:
                self._handle(*event)
        return self._received.popleft() if self._received else None

    def wake(self) -> None:
        self._events.put(None)

    def failure(self) -> str | None:
        return self._failure

    def close(self) -> None:
        if self._failure is None:
            self._actor.leave.remote(self._name)

    def _deliver(self) -> None:
        """Send all that waits. Under the lock."""
        self._under_way += 1
        call = self._actor.deliver.remote(self._name, self._number, self._unsent)
        call.future().add_done_callback(lambda done: self._events.put((False, done)))
        self._number += 1
        self._unsent = []

    def _collect(self) -> None:
        call = self._actor.collect.remote(self._name)
        call.future().add_done_callback(lambda done: self._events.put((True, done)))

    def _handle(self, collected: bool, call: Future[Any]) -> None:
        """On the thread that receives, which never waits for the actor."""
        error = call.exception()
        if error is not None:
            self._failure = f"the actor that hosts the queue died ({type(error).__name__})"
        elif not collected:
            with self._lock:
                self._under_way -= 1
                if self._unsent:
                    self._deliver()
        elif (answer := call.result()) is not None:
            self._collect()
            for messages in self._order.add(*answer):
                self._received += messages


class _Peer:
    """A client, as the actor knows it."""

    def __init__(self) -> None:
        self.order: _InOrder[_Messages] = _InOrder()
        self.unsent: _Messages = []
        self.number = 0
        self.collecting: deque[asyncio.Future[tuple[int, _Messages] | None]] = deque()

    def answer(self) -> None:
        """Send what waits with a call that waits, if there are both."""
        while self.unsent and self.collecting:
            call = self.collecting.popleft()
            if not call.done():
                call.set_result((self.number, self.unsent))
                self.unsent = []
                self.number += 1


class CallsListener:
    """The server's end: a `Listener`, and what the actor's methods do with the calls, on its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers: dict[bytes, _Peer] = {}
        self._arrived: queue.SimpleQueue[tuple[bytes, Parts] | None] = queue.SimpleQueue()

    @property
    def address(self) -> tuple[str, int]:
        return "", 0

    def send(self, peer: bytes, parts: Parts) -> bool:
        self._loop.call_soon_threadsafe(self._post, peer, [bytes(part) for part in parts])
        return True

    def receive(self, timeout_s: float) -> tuple[bytes, Parts] | None:
        try:
            return self._arrived.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def wake(self) -> None:
        self._arrived.put(None)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._leave_all)

    def deliver(self, name: bytes, number: int, messages: _Messages) -> None:
        """A call brought messages."""
        for due in self._peer(name).order.add(number, messages):
            for parts in due:
                self._arrived.put((name, parts))

    async def collect(self, name: bytes) -> tuple[int, _Messages] | None:
        """A call waits for messages; None when the client has left."""
        call: asyncio.Future[tuple[int, _Messages] | None] = self._loop.create_future()
        peer = self._peer(name)
        peer.collecting.append(call)
        peer.answer()
        return await call

    def leave(self, name: bytes) -> None:
        """The client is gone; its calls end."""
        peer = self._peers.pop(name, None)
        for call in peer.collecting if peer is not None else ():
            if not call.done():
                call.set_result(None)

    def _peer(self, name: bytes) -> _Peer:
        return self._peers.setdefault(name, _Peer())

    def _post(self, name: bytes, parts: list[bytes]) -> None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.unsent.append(parts)
            peer.answer()

    def _leave_all(self) -> None:
        for name in list(self._peers):
            self.leave(name)
