"""The consumers' half of a served queue: items are sent to those who want some, in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from sage.errors import QueueClosed, QueueError
from sage.queues.frames import Frame
from sage.queues.remote.messages import Ask, Ended, Recall, of_frame
from sage.queues.remote.ports import Port
from sage.queues.remote.settling import NEVER, WAIT_S, Settling
from sage.queues.serving import Served

_AT_ONCE = 1_000
_FRAME_BYTES = 256 * 1024
CALL_S = 0.05
"""How often those who hold items for which others wait are asked for them."""
_LAST_S = 1.0


class Feeding(Settling):
    """Not for others: `Service` is."""

    def __init__(self, queue: Served, wake: Callable[[], None]) -> None:
        super().__init__(queue, wake)
        self._item_bytes = 64.0  # of late
        self._feeder: threading.Thread | None = None
        self._returned: deque[Frame] = deque()  # that were sent to consumers who did not get them, the oldest first
        self._called_at = 0.0
        self._last_until = NEVER  # how long those that hold the last items of a closed queue are waited for

    def resume(self) -> None:
        """A client to which too much was on its way can be sent more."""
        with self._lock:
            self._changed.notify_all()

    def _demand(self, port: Port, upto: int, got: int) -> None:
        self._take_back(port)  # before it is sent what was put later
        if upto < port.upto:
            with self._feeding:  # what is being sent is sent before anything that its client hears after this
                port.upto = upto
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

    def _wait_for_items(self) -> None:
        if self._feeder is None and not self._ending:
            self._feeder = threading.Thread(target=self._feed_as_possible, name="sage-queue-items", daemon=True)
            self._feeder.start()
        self._changed.notify_all()

    def _feed_as_possible(self) -> None:
        while True:
            with self._lock:
                while not self._ending and not any(port.takes_items for port in self._ports):
                    self._changed.wait()
                if self._ending:
                    return
            if self._feed():
                continue
            is_called = self._call_for_items()
            if is_called and self.queue.closed:  # then the queue does not wait
                with self._lock:
                    self._changed.wait(CALL_S)
            else:
                self.queue.wait_for_items(CALL_S if is_called else WAIT_S)

    def _call_for_items(self) -> bool:
        """Ask consumers for what they were sent and nobody gets there; whether any could have it for somebody else."""
        now = time.monotonic()
        with self._lock:
            takers = {port for port in self._ports if port.takes_items}
            is_wanted = self.queue.is_wanted()
            holders = [port for port in self._ports if port.holds_items and (is_wanted or takers - {port})]
            if holders and now - self._called_at >= CALL_S:
                self._called_at = now
                for port in holders:
                    port.client.send(Recall(port.number, 0, False, False, True))
            return bool(holders)

    def _awaits_last(self, now: float) -> bool:
        """The queue is closed and empty: whether somebody holds what others may have, for a second at most."""
        self._last_until = min(self._last_until, now + _LAST_S)
        return now < self._last_until and self._call_for_items()

    def _return(self, port: Port, frame: Frame) -> None:
        """`port` was sent these items, and does not want them. They keep their places. A demand follows the last."""
        with self._lock:
            if frame.items > port.delivered - port.confirmed:
                raise QueueError("E526", "more items are returned than were sent", got=frame.items)
            port.confirmed += frame.items
            port.returned.append(frame)

    def _take_back(self, port: Port) -> None:
        """What `port` returned is in the queue again; where that has no room for it now, it is what is sent next."""
        if port.returned:
            with self._feeding:
                frames, port.returned = port.returned, []
                self._returned.extendleft(reversed(self.queue.put_back(frames)))

    def _next_port(self) -> Port | None:
        """Who is sent items next: each in turn."""
        for index, port in enumerate(self._ports):
            if port.takes_items:
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
                frames = [self._returned.popleft()] if self._returned else self.queue.take_frames(count)
            except QueueClosed:
                if not self._awaits_last(time.monotonic()):
                    self._tell_ended()
                return False
            self._last_until = NEVER
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
            self._settle(False, answer, items=question.what == "items", asker=port)

    def _feed_asked(self, port: Port, question: Ask) -> bool:
        with self._lock:
            if port.has_ended or port.is_detached:
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
