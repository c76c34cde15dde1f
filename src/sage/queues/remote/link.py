"""A link: one connection of this process to one server, shared by all queues between them."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Protocol, TypeAlias

from sage.errors import QueueBroken, QueueError
from sage.queues.exclusive import Exclusive
from sage.queues.remote.messages import Attach, Attached, Detach, Message, Refused, decode, encode
from sage.queues.remote.stream import ACKNOWLEDGE_BYTES, ID_BYTES, NOBODY, Header, Sort, Stream, split
from sage.queues.remote.transport import Connection, Parts

PATIENCE_S = 30.0
_HEARTBEAT_S = 0.25
"""How often the other end is asked for a sign of life while something is pending, in seconds."""
_IDLE_S = 5.0
"""The same while nothing is."""
_FIRST_S = 0.01
_ANSWER_S = 10.0
_FOREVER = float("inf")


class End(Protocol):
    """What is attached to a port of a link."""

    def handle(self, message: Message, parts: Parts) -> None:
        """A message for the port came. On the link's thread; must not wait."""

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again. On the link's thread."""

    def is_waiting(self) -> bool:
        """Whether somebody waits for the server, or the server holds something for this end."""

    def broken(self, error: QueueBroken) -> None:
        """The link ended for good."""


Connect: TypeAlias = Callable[[bytes], Connection]
"""Makes the connection of a session, whose name it gets."""


class Link:
    """Closed when all who hold it have released it: each of its queues. Every method may be called from any thread."""

    def __init__(self, connect: Connect, place: str, *, patience_s: float = PATIENCE_S) -> None:
        """Raises `QueueError` E504 if no server answers at `place`, or it does not accept the key."""
        self.place = place
        self.holders = 1  # who will release it
        session = b"\1" + secrets.token_bytes(ID_BYTES - 1)
        self._patience_s = patience_s
        self._stream = Stream(session)
        self._connection = connect(session)
        self._lock = threading.Lock()
        self._ends: dict[int, End] = {}
        self._answers: dict[int, _Waiting] = {}
        self._ports = itertools.count(1)
        self._started = threading.Event()
        self._error: QueueBroken | None = None
        self._ending = False
        self._pinged_at = 0.0
        self._silent_since: float | None = None
        self._wakes_at = _FOREVER
        self._thread = threading.Thread(target=self._run, name="sage-link", daemon=True)
        self._thread.start()
        if not self._started.wait(min(_ANSWER_S, patience_s)):
            self._break("nobody answers")
        if self.is_broken:
            self.close()
            raise QueueError("E504", f"there is no server of queues: {self.broken_error().what}", at=place)

    @property
    def round_trip_s(self) -> float:
        """The shortest that was seen lately."""
        return self._stream.round_trip_s or 0.0

    def new_port(self) -> int:
        """One that nobody has had."""
        with self._lock:
            return next(self._ports)

    def add(self, port: int, end: End) -> None:
        """From now on its messages go to `end`, and this link's thread asks it things."""
        with self._lock:
            self._ends[port] = end

    def attach(self, port: int, queue_id: str) -> Attached:
        """Have `port` stand for a queue of the server; returns what it is. Raises E504 if there is none."""
        waiting = self._answers[port] = _Waiting()
        self.send(Attach(port, queue_id))
        if self._error is None:
            waiting.done.wait(self._patience_s)
        answer = self._answers.pop(port).answer
        if isinstance(answer, Attached):
            return answer
        with self._lock:
            self._ends.pop(port, None)
        if self._error is not None:
            raise self.broken_error()
        why = answer.what if isinstance(answer, Refused) else "the server does not answer"
        raise QueueError("E504", f"there is no such queue: {why}", at=f"queue {queue_id}")

    def detach(self, port: int) -> None:
        """Give up a port."""
        with self._lock:
            known = self._ends.pop(port, None)
        if known is not None and self._error is None:
            self.send(Detach(port))

    @property
    def is_broken(self) -> bool:
        """Whether it ended."""
        return self._error is not None

    def send(self, message: Message, parts: Parts = ()) -> None:
        """Send `message`, once and in order. Never waits. After the link ended, does nothing."""
        with self._lock:
            if self._error is None:
                self._connection.send(self._stream.send(encode(message), parts))
        self.expect()

    def expect(self) -> None:
        """Somebody waits for the server from now on: see to it that it is alive."""
        if self._wakes_at > (now := time.monotonic()) + _HEARTBEAT_S:
            self.wake_by(now + _HEARTBEAT_S)

    def wake_by(self, moment: float) -> None:
        """Have the ends ticked at `moment` or before."""
        if moment < self._wakes_at:
            self._wakes_at = moment
            self._connection.wake()

    def broken_error(self) -> QueueBroken:
        """A new error that tells why the link ended."""
        assert self._error is not None
        return QueueBroken(self._error.code, self._error.what, at=self._error.at)

    def close(self) -> None:
        """Say goodbye and end."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            if self._error is None:
                self._connection.send(self._stream.tell(Sort.BYE))
        self._connection.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- the link's thread ---

    def _run(self) -> None:
        try:
            while not self._ending and self._error is None:
                now = time.monotonic()
                self._wakes_at = _FOREVER  # whoever wants to be ticked from now on wakes this thread
                self._wakes_at = wakes_at = min(self._tick_ends(now), self._beat(now))
                parts = self._connection.receive(max(0.0, wakes_at - time.monotonic()))
                while parts is not None:
                    self._take(parts)
                    parts = self._connection.receive(0.0)
                if self._stream.received_bytes > ACKNOWLEDGE_BYTES:
                    self._tell(Sort.PONG)
        finally:
            if self._error is None:
                self._break("the link was closed")
            self._connection.close()

    def _tick_ends(self, now: float) -> float:
        return min([end.tick(now) for end in list(self._ends.values())], default=_FOREVER)

    def _beat(self, now: float) -> float:
        """Ask for a sign of life when it is time. Returns when to come again."""
        every_s = _HEARTBEAT_S if self._expects() else _IDLE_S
        if not self._started.is_set():
            every_s = _FIRST_S
        if self._silent_since is not None:
            if now - self._silent_since > self._patience_s:
                self._break(f"nothing was heard from the server for {self._patience_s:.0f} s")
            elif why := self._connection.failure():
                self._break(why)
        if now - self._pinged_at >= every_s:
            self._pinged_at = now
            if self._silent_since is None:
                self._silent_since = now
            with self._lock:
                self._connection.send(self._stream.ping(now))
        return self._pinged_at + every_s

    def _expects(self) -> bool:
        """Whether it matters that the server is alive."""
        if self._stream.pending or self._silent_since is not None:
            return True
        return any(end.is_waiting() for end in list(self._ends.values()))

    def _take(self, parts: Parts) -> None:
        found = split(parts[0])
        if found is None:
            return
        header, body = found
        now = time.monotonic()
        with self._lock:
            if not self._is_ours(header):
                return
            self._silent_since = None
            size = sum(len(part) for part in parts)
            is_next, replies = self._stream.receive(header, size, now)
            for reply in replies:
                self._connection.send(reply)
        if header.sort in {Sort.BYE, Sort.GONE}:
            self._break("the owner of the queue ended")
        elif header.sort is Sort.PONG:
            self._started.set()
        elif is_next:
            self._handle(body, parts[1:])

    def _is_ours(self, header: Header) -> bool:
        """Whether it is of this session. The first answer tells the life of the server."""
        if header.session != self._stream.session:
            return False
        if self._stream.life == NOBODY:
            self._stream.life = header.life
        return header.life == self._stream.life or header.sort is Sort.GONE

    def _handle(self, body: memoryview, parts: Parts) -> None:
        try:
            message = decode(body, parts)
        except QueueError as error:
            self._break(str(error))
            return
        if isinstance(message, Attached | Refused) and message.port in self._answers:
            waiting = self._answers[message.port]
            waiting.answer = message
            waiting.done.set()
        elif message.port in self._ends:
            self._ends[message.port].handle(message, parts)

    def _tell(self, sort: Sort) -> None:
        with self._lock:
            self._connection.send(self._stream.tell(sort))

    def _break(self, why: str) -> None:
        """The end, and everybody is told."""
        with self._lock:
            self._error = QueueBroken("E506", why, at=self.place)
            ends = list(self._ends.values())
        self._started.set()
        for waiting in list(self._answers.values()):
            waiting.done.set()
        for end in ends:
            end.broken(self.broken_error())


class _Waiting:
    """A caller of `attach`, and what it waits for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Message | None = None


_links: dict[Hashable, Link] = {}
_exclusive = Exclusive()
_links_lock = threading.Lock()


def link_to(address: tuple[str, int], key: str, *, patience_s: float = PATIENCE_S) -> Link:
    """The link of this process to the server at `address`: the one that it has, or a new one."""
    from sage.queues.remote.zeromq import ZeroMQConnection

    host, port = address

    def connect(name: bytes) -> Connection:
        return ZeroMQConnection(host, port, key, name)

    return pooled((address, key), lambda: Link(connect, f"{host}:{port}", patience_s=patience_s))


def pooled(identity: Hashable, make: Callable[[], Link]) -> Link:
    """The link that this process keeps for `identity`, or the one that `make` makes; to be released once."""
    with _exclusive.take(identity):
        with _links_lock:
            known = _links.get(identity)
            if known is not None and not known.is_broken:
                known.holders += 1
                return known
        made = make()
        with _links_lock:
            _links[identity] = made
        return made


def release(link: Link) -> None:
    """Close `link` if that was the last who held it."""
    with _links_lock:
        link.holders -= 1
        if link.holders:
            return
        for identity in [identity for identity, known in _links.items() if known is link]:
            del _links[identity]
    link.close()


def _forget_in_child() -> None:
    """A forked child has copies of links that are not its own."""
    global _links_lock  # noqa: PLW0603 -- another thread may have held it when the process forked
    _links_lock = threading.Lock()
    with suppress(KeyError):
        while True:
            _links.popitem()


os.register_at_fork(after_in_child=_forget_in_child)
