"""One served queue: who has it open, which places they hold, what they want, and the threads that see to it.

Frames of producers are put by the server's thread. Two threads of the service's own exist while there is something to
wait for: one takes items for consumers, one places for producers. Both wait in the queue itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sage.errors import QueueClosed, QueueError
from sage.queues.frames import Frame
from sage.queues.remote.messages import (
    Accepted,
    Answer,
    Ask,
    Back,
    Demand,
    Ended,
    Grant,
    Items,
    Message,
    Need,
    Recall,
    Refused,
    Rejected,
    Settled,
    frame_of,
    of_frame,
    short,
)
from sage.queues.remote.producing import WINDOW_BYTES, kept_places
from sage.queues.remote.transport import Parts
from sage.queues.serving import Served

SETTLE_S = 0.25
"""How long a client has to answer a recall."""
_WAIT_S = 10.0
_ACCEPT_S = 0.005
_RECALL_S = 0.05
_AT_ONCE = 1_000
_FRAME_BYTES = 256 * 1024
_FRAME_EXTRA_BYTES = 64  # that a queue may need for a frame beside what is in it
_NEVER = float("inf")


class Peer(Protocol):
    """A client, as far as its ports need it."""

    @property
    def is_congested(self) -> bool: ...

    def send(self, message: Message, parts: Parts = ()) -> None: ...


@dataclass(eq=False)
class Port:
    """One client's hold on the queue."""

    service: Service
    client: Peer
    number: int
    places: int = 0
    """Reserved for it, and not used."""
    size: int = 0
    """Bytes that it may use, of those that are free."""
    needed: int = 0
    needed_size: int = 0
    frames: int = 0
    """That came and are in the queue, or were rejected."""
    accepted: int = 0
    """Of those, how many it was told."""
    untold_bytes: int = 0
    prompt: bool = False
    waiting_frames: deque[Frame] = field(default_factory=deque)
    """That came, and for whose bytes there was no room."""
    upto: int = 0
    got: int = 0
    delivered: int = 0
    confirmed: int = 0
    knows_closed: bool = False
    is_silent: bool = False
    """It did not answer a recall; it is not asked again before it says something."""
    has_ended: bool = False
    is_detached: bool = False

    @property
    def demand(self) -> int:
        """Items that it may be sent now."""
        return self.upto - self.delivered

    def is_worth_asking(self, closed: bool) -> bool:
        """Whether a recall may change anything, `closed` telling whether the queue is."""
        return not self.is_silent and (self.holds_something or (closed and not self.knows_closed))

    @property
    def holds_something(self) -> bool:
        """Whether others could have it."""
        return self.places > 0 or self.size > 0 or self.delivered > self.confirmed


class _Round:
    """One recall: who has not answered, and what to do when all have."""

    def __init__(self, waiting: set[Port], until: float, then: Callable[[], None]) -> None:
        self.waiting = waiting
        self.until = until
        self.then = then


class Service:
    """Made and closed by its server. It is what its queue knows as its server (`Settles`)."""

    def __init__(self, queue: Served, wake: Callable[[], None]) -> None:
        """`wake` has `tick` called soon."""
        self.queue = queue
        self._wake = wake
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._feeding = threading.Lock()  # from taking items to sending them
        self._putting = threading.Lock()  # from finding a frame to having put it
        self._ports: list[Port] = []
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._item_bytes = 64.0  # of late
        self._recalled_at = 0.0
        self._accept_at = _NEVER
        self._feeder: threading.Thread | None = None
        self._granter: threading.Thread | None = None
        self._ending = False
        queue.attach_server(self)

    # --- for the queue: any thread ---

    def settle(self, timeout_s: float, *, places: bool = True) -> None:
        """See `Settles`."""
        done = threading.Event()
        self._settle(places, done.set, timeout_s)
        done.wait(timeout_s)

    # --- for the server: its thread ---

    def attach(self, port: Port) -> Port:
        with self._lock:
            self._ports.append(port)
            if kept := kept_places(self.queue.maxsize):
                self._grant(port, kept, 0)
        return port

    def detach(self, port: Port) -> None:
        """Take back all that `port` holds."""
        with self._lock:
            if port not in self._ports:
                return
            port.is_detached = True
            self._remove_if_over(port)
            port.upto = port.delivered
            self._confirm(port, port.delivered)
            port.needed = port.needed_size = 0
        for number in list(self._rounds):
            self._answered(number, port)

    def _remove_if_over(self, port: Port) -> None:
        """Forget a port that was detached, when all that came from it is in the queue."""
        if port.is_detached and not port.waiting_frames and port in self._ports:
            self._ports.remove(port)
            self._release(port, port.places, port.size)

    def handle(self, port: Port, message: Message, parts: Parts) -> None:
        """A message for `port`. What comes after the end is not accepted: its sender was told."""
        port.is_silent = False
        if self._ending:
            return
        match message:
            case Items():
                port.size = max(0, port.size - message.spent)
                self._put(port, frame_of(message, parts), prompt=message.prompt)
            case Need(places=places, size=size):
                self._need(port, places, size)
            case Back(places=places, size=size):
                self._release(port, places, size)
            case Demand(upto=upto, got=got):
                self._demand(port, upto, got)
            case Settled(round=number, back=back, got=got, size=size):
                self._release(port, back, size)
                self._confirm(port, got)
                port.needed = port.needed_size = 0  # whoever still needs some says so again
                self._answered(number, port)
            case Ask(what="room"):
                self._ask_room(port, message)
            case Ask(what="items"):
                self._ask_items(port, message)
            case Ask(what="size"):
                self._settle(False, lambda: self._answer(port, message, self.queue.size()))
            case Ask(what="depth"):
                self._answer(port, message, self.queue.size())
            case Ask(what="close"):
                self._close_queue(lambda: self._answer(port, message, 0))
            case Ask(what="look"):
                self._accept(port)
                port.prompt = port.accepted < port.frames or bool(port.waiting_frames)

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again."""
        if now >= self._accept_at:
            self._accept_at = _NEVER
            for port in list(self._ports):
                self._accept(port)
        for number, found in list(self._rounds.items()):
            if found.until <= now:
                for port in list(found.waiting):
                    port.is_silent = True
                    self._answered(number, port)
        return min([self._accept_at, *(found.until for found in list(self._rounds.values()))])

    def close(self) -> None:
        """Tell all clients that the queue is gone, and end the threads."""
        self.queue.detach_server(self)
        with self._lock:
            self._ending = True
            ports, self._ports = self._ports, []
            self._changed.notify_all()
        for port in ports:
            self._accept(port)
            port.client.send(Refused(port.number, "E506", "the owner of the queue ended"))
            self._release(port, port.places)
            self._confirm(port, port.delivered)
        for thread in (self._feeder, self._granter):
            if thread is not None:
                thread.join()

    # --- producers ---

    def _need(self, port: Port, places: int, size: int) -> None:
        with self._lock:
            port.needed, port.needed_size = places, size
            if places or size:
                self._grant(port, places, size)
            if port.needed or port.needed_size:
                self._wait_for_room()

    def _grant(self, port: Port, count: int, size: int) -> bool:
        """Reserve up to `count` places and `size` bytes for `port`; whether it got some of each that it wants."""
        try:
            places = self.queue.reserve(count) if count else 0
        except QueueClosed:
            port.needed = port.needed_size = 0
            port.client.send(Recall(port.number, 0, True, True))
            return False
        granted = min(size, self._spare_bytes())
        if places or granted:
            port.places += places
            port.needed = max(0, port.needed - places)
            port.size += granted
            port.needed_size = max(0, port.needed_size - granted)
            port.client.send(Grant(port.number, places, granted))
        return (places > 0 or not count) and granted == size

    def _spare_bytes(self) -> int:
        """Bytes that are free, and promised to nobody."""
        waiting = sum(frame.size_bytes for port in self._ports for frame in port.waiting_frames)
        return max(0, self.queue.free_bytes() - self._promised() - waiting)

    def _promised(self) -> int:
        return sum(port.size for port in self._ports)

    def _wait_for_room(self) -> None:
        """Have places taken for those who need some, as they become free; ask those who hold some for them."""
        now = time.monotonic()
        if now - self._recalled_at > _RECALL_S and self._is_hoarded():
            self._recalled_at = now
            self._settle(True, _nothing)
        if self._granter is None and not self._ending:
            self._granter = threading.Thread(target=self._grant_as_possible, name="sage-queue-room", daemon=True)
            self._granter.start()
        self._changed.notify_all()

    def _is_hoarded(self) -> bool:
        return any((port.places or port.size) and not port.needed and not port.needed_size for port in self._ports)

    def _grant_as_possible(self) -> None:
        while True:
            with self._lock:
                while not self._ending and not any(map(_wants_room, self._ports)):
                    self._changed.wait()
                if self._ending:
                    return
            self.queue.wait_for_room(_WAIT_S, self._is_enough)
            with self._lock:
                self._grant_all()
            for port in list(self._ports):
                self._put_waiting(port)

    def _is_enough(self, has_place: bool) -> bool:
        """Whether somebody can be given something now."""
        if has_place and any(port.needed for port in self._ports):
            return True
        free = self.queue.free_bytes()
        if any(port.needed_size for port in self._ports) and free > self._promised():
            return True
        most = self.queue.max_bytes or free
        frames = [port.waiting_frames[0] for port in list(self._ports) if port.waiting_frames]
        return any(free >= min(frame.size_bytes + _FRAME_EXTRA_BYTES, most) for frame in frames)

    def _grant_all(self) -> None:
        """Give those who need something an equal share of what is free."""
        needing = [port for port in self._ports if port.needed or port.needed_size]
        for port in needing:
            count = max(1, port.needed // len(needing)) if port.needed else 0
            self._grant(port, count, port.needed_size)
        if needing and self._is_hoarded():
            self._wait_for_room()

    def _ask_room(self, port: Port, question: Ask) -> None:
        def answer() -> None:
            if not self._grant(port, max(1, question.count), question.size):
                port.needed = port.needed_size = 0
            self._answer(port, question, port.places)

        if self._grant(port, max(1, question.count), question.size):
            self._answer(port, question, port.places)
        else:
            question = msgspec.structs.replace(question, size=max(0, question.size - port.size))
            self._settle(True, answer)

    def _put(self, port: Port, frame: Frame, *, prompt: bool) -> None:
        if frame.items > port.places:
            port.frames += 1
            port.client.send(Rejected(port.number, port.frames, "E526", "more items than places"))
            return
        port.waiting_frames.append(frame)
        self._put_waiting(port)
        port.untold_bytes += frame.size_bytes
        if prompt or port.prompt or port.untold_bytes > WINDOW_BYTES // 8:
            self._accept(port)
        elif self._accept_at == _NEVER:
            self._accept_at = time.monotonic() + _ACCEPT_S

    def _put_waiting(self, port: Port) -> None:
        """Put frames that came, in order, as far as there is room for their bytes."""
        with self._putting:
            while port.waiting_frames:
                frame = port.waiting_frames[0]
                try:
                    if not self.queue.put_frame(frame):
                        break
                    with self._lock:
                        port.places -= frame.items
                except QueueError as error:
                    port.client.send(Rejected(port.number, port.frames + 1, error.code, short(error.what)))
                port.frames += 1
                port.waiting_frames.popleft()
        with self._lock:
            if port.waiting_frames:
                self._wait_for_room()
            self._remove_if_over(port)

    def _accept(self, port: Port) -> None:
        """Tell `port` what is in the queue."""
        if port.frames > port.accepted:
            port.accepted = port.frames
            port.untold_bytes = 0
            port.prompt = False
            port.client.send(Accepted(port.number, port.frames))

    def _release(self, port: Port, count: int, size: int = 0) -> None:
        with self._lock:
            count = min(count, port.places)
            port.places -= count
            port.size -= min(size, port.size)
            if size:
                self._grant_all()
        if count:
            self.queue.release(count)

    # --- consumers ---

    def _demand(self, port: Port, upto: int, got: int) -> None:
        with self._lock:
            port.upto = upto
            port.got = got
            self._confirm(port, got)
            if port.demand > 0:
                self._wait_for_items()

    def _confirm(self, port: Port, got: int) -> None:
        """So many of the items sent to `port`, ever, need no places any more."""
        with self._lock:
            count = min(got, port.delivered) - port.confirmed
            if count <= 0:
                return
            port.confirmed += count
        self.queue.confirm(count)

    def resume(self) -> None:
        """A client to which too much was on its way can be sent more."""
        with self._lock:
            self._changed.notify_all()

    def _wait_for_items(self) -> None:
        if self._feeder is None and not self._ending:
            self._feeder = threading.Thread(target=self._feed_as_possible, name="sage-queue-items", daemon=True)
            self._feeder.start()
        self._changed.notify_all()

    def _feed_as_possible(self) -> None:
        while True:
            with self._lock:
                while not self._ending and not any(map(_takes, self._ports)):
                    self._changed.wait()
                if self._ending:
                    return
            if not self._feed():
                self.queue.wait_for_items(_WAIT_S)

    def _next_port(self) -> Port | None:
        """Who is sent items next: each in turn."""
        for index, port in enumerate(self._ports):
            if _takes(port):
                self._ports.append(self._ports.pop(index))
                return port
        return None

    def _feed(self, port: Port | None = None) -> bool:
        """Send `port`, or whose turn it is, what there is. False: there is nothing."""
        with self._feeding:
            with self._lock:
                port = port or self._next_port()
                if port is None:
                    return True
                rivals = sum(other.demand > 0 for other in self._ports)
                at_once = min(_AT_ONCE // max(1, rivals), int(_FRAME_BYTES / self._item_bytes))
                count = min(port.demand, max(1, at_once))
            try:
                frames = self.queue.take_frames(count)
            except QueueClosed:
                self._tell_ended()
                return False
            for frame in frames:
                self._deliver(port, frame)
            return bool(frames)

    def _deliver(self, port: Port, frame: Frame) -> None:
        with self._lock:
            port.delivered += frame.items
            self._item_bytes += (frame.size_bytes / frame.items - self._item_bytes) / 4
        port.client.send(*of_frame(port.number, frame))
        self._confirm(port, port.got)

    def _ask_items(self, port: Port, question: Ask) -> None:
        def answer() -> None:
            found = self._feed_asked(port, question)
            with self._lock:
                port.upto = port.delivered
                port.got = min(port.got, port.delivered)
            self._answer(port, question, int(found))

        if self._feed_asked(port, question):
            answer()
        else:
            self._settle(False, answer)

    def _feed_asked(self, port: Port, question: Ask) -> bool:
        with self._lock:
            if port.has_ended:
                return False
            before = port.delivered
            port.upto = max(port.upto, port.delivered + max(1, question.count))
        while port.demand > 0 and self._feed(port):
            pass
        return port.delivered > before

    def _tell_ended(self) -> None:
        """The queue is closed, and nothing is left: all who ask for items learn it."""
        with self._lock:
            for port in self._ports:
                if not port.has_ended and port.demand > 0:
                    port.has_ended = True
                    port.client.send(Ended(port.number))

    # --- settling ---

    def _settle(self, places: bool, then: Callable[[], None], timeout_s: float = SETTLE_S) -> None:
        """Recall what clients hold, and do `then` when all have answered or it is too late."""
        with self._lock:
            closed = self.queue.closed
            asked = {port for port in self._ports if port.is_worth_asking(closed)}
            if asked:
                self._round += 1
                self._rounds[self._round] = _Round(asked, time.monotonic() + timeout_s, then)
            for port in asked:
                port.knows_closed = closed
                port.client.send(Recall(port.number, self._round, places, closed))
        if asked:
            self._wake()
        else:
            then()

    def _answered(self, number: int, port: Port) -> None:
        with self._lock:
            found = self._rounds.get(number)
            if found is None:
                return
            if port not in found.waiting:
                return
            found.waiting.remove(port)
            if found.waiting:
                return
            del self._rounds[number]
        found.then()

    def _answer(self, port: Port, question: Ask, count: int) -> None:
        port.client.send(Answer(port.number, question.number, count, self.queue.closed))

    def _close_queue(self, then: Callable[[], None]) -> None:
        """Close the queue, which waits for the clients to settle: not on the thread that hears them."""

        def close() -> None:
            self.queue.close()
            then()

        threading.Thread(target=close, name="sage-queue-close", daemon=True).start()


def _wants_room(port: Port) -> bool:
    return bool(port.needed or port.needed_size or port.waiting_frames)


def _takes(port: Port) -> bool:
    """Whether it may be sent items now."""
    return port.demand > 0 and not port.has_ended and not port.client.is_congested


def _nothing() -> None:
    """For a recall that nobody waits for."""
