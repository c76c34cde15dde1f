"""What both halves of a served queue share: its ports, and recalls, by which clients are asked for what they hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sage.queues.remote.messages import Answer, Ask, Recall
from sage.queues.remote.ports import Port
from sage.queues.serving import Served

SETTLE_S = 0.25
"""How long a client has to answer a recall."""
WAIT_S = 10.0
"""How long a thread of a service waits in the queue, before it looks whether it is still needed."""
NEVER = float("inf")


class _Round:
    """One recall: who has not answered, and what to do when all have."""

    def __init__(self, waiting: set[Port], until: float, then: Callable[[], None]) -> None:
        self.waiting = waiting
        self.until = until
        self.then = then


class Settling:
    """Not for others: `Service` is."""

    def __init__(self, queue: Served, wake: Callable[[], None]) -> None:
        self.queue = queue
        self._wake = wake
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._ports: list[Port] = []
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._ending = False

    def settle(self, timeout_s: float, *, places: bool = True) -> None:
        """See `Settles`."""
        done = threading.Event()
        self._settle(places, done.set, timeout_s, items=not places)
        done.wait(timeout_s)

    def _settle(
        self, places: bool, then: Callable[[], None], timeout_s: float = SETTLE_S, *, items: bool = False
    ) -> None:
        """Recall what clients hold, and do `then` when all have answered or it is too late.

        With `items` somebody waits for some: also those that were sent to consumers which do not get them.
        """
        with self._lock:
            closed = self.queue.closed
            items = items and not closed
            asked = {port for port in self._ports if port.is_worth_asking(closed)}
            if asked:
                self._round += 1
                self._rounds[self._round] = _Round(asked, time.monotonic() + timeout_s, then)
            for port in asked:
                port.knows_closed = closed
                port.client.send(Recall(port.number, self._round, places, closed, items))
        if asked:
            self._wake()
        else:
            then()

    def _answered(self, number: int, port: Port) -> None:
        with self._lock:
            found = self._rounds.get(number)
            if found is None or port not in found.waiting:
                return
            found.waiting.remove(port)
            if found.waiting:
                return
            del self._rounds[number]
        found.then()

    def _answer(self, port: Port, question: Ask, count: int) -> None:
        port.client.send(Answer(port.number, question.number, count, self.queue.closed))

    def _give_up_on_silent(self, now: float) -> float:
        """Wait no longer for those that did not answer in time; returns when the next will be late."""
        for number, found in list(self._rounds.items()):
            if found.until <= now:
                for port in list(found.waiting):
                    port.is_silent = True
                    self._answered(number, port)
        return min((found.until for found in list(self._rounds.values())), default=NEVER)
