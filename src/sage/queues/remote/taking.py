"""The producers' half of a served queue: places and bytes are granted, and what comes for them is put."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sage.errors import QueueClosed, QueueError
from sage.queues.frames import Frame
from sage.queues.remote.messages import Accepted, Ask, Grant, Recall, Rejected, short
from sage.queues.remote.ports import Port
from sage.queues.remote.sending import WINDOW_BYTES
from sage.queues.remote.settling import NEVER, WAIT_S, Settling
from sage.queues.serving import Served

_ACCEPT_S = 0.005
_RECALL_S = 0.05
_FRAME_EXTRA_BYTES = 64  # that a queue may need for a frame beside what is in it


class Taking(Settling):
    """Not for others: `Service` is."""

    def __init__(self, queue: Served, wake: Callable[[], None]) -> None:
        super().__init__(queue, wake)
        self._putting = threading.Lock()  # from finding a frame to having put it
        self._recalled_at = 0.0
        self._accept_at = NEVER
        self._granter: threading.Thread | None = None

    def _need(self, port: Port, places: int, size: int) -> None:
        with self._lock:
            port.needed, port.needed_size = max(0, places - port.granted), max(0, size - port.granted_size)
            if port.needed or port.needed_size:
                self._grant(port, port.needed, port.needed_size)
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
            port.granted += places
            port.needed = max(0, port.needed - places)
            port.size += granted
            port.granted_size += granted
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
                while not self._ending and not any(port.wants_room for port in self._ports):
                    self._changed.wait()
                if self._ending:
                    return
            self.queue.wait_for_room(WAIT_S, self._is_enough)
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
        """The bytes come on top of what `port` has: some of them at once, the others when all have settled."""
        wanted = port.size + question.size

        def answer() -> None:
            if not self._grant(port, max(1, question.count), max(0, wanted - port.size)):
                port.needed = port.needed_size = 0
            self._answer(port, question, port.places)

        if self._grant(port, max(1, question.count), question.size):
            self._answer(port, question, port.places)
        else:
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
        elif self._accept_at == NEVER:
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

    def _remove_if_over(self, port: Port) -> None:
        """Forget a port that was detached, when all that came from it is in the queue."""
        if port.is_detached and not port.waiting_frames and port in self._ports:
            self._ports.remove(port)
            self._release(port, port.places, port.size)


def _nothing() -> None:
    """For a recall that nobody waits for."""
