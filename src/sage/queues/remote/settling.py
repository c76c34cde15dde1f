"""What both halves of a served queue share: its ports, and recalls, by which clients are asked for what they hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

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
        self._feeding = threading.Lock()  # from taking items to sending them; taken before `_lock`
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._ports: list[Port] = []
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._ending = False

    def settle(self, timeout_s: float, *, places: bool = True, items: bool = False) -> None:
        """See `Settles`."""
        done = threading.Event()
        self._settle(places, done.set, timeout_s, items=items)
        done.wait(timeout_s)

    def _settle(
        self,
        places: bool,
        then: Callable[[], None],
        timeout_s: float | None = None,
        *,
        items: bool = False,
        asker: Port | None = None,
    ) -> None:
        """Recall what clients hold, and do `then` when all have answered, or after `timeout_s` (`SETTLE_S`).

        With `items` somebody, perhaps the `asker`, is about to be told that there are none: also what was sent to
        others and not got.
        """
        with self._feeding if items else nullcontext(), self._lock:
            closed = self.queue.closed
            asked = {port for port in self._ports if port.is_worth_asking(closed)}
            if asked:
                self._round += 1
                until = time.monotonic() + (SETTLE_S if timeout_s is None else timeout_s)
                self._rounds[self._round] = _Round(asked, until, then)
            for port in asked:
                port.knows_closed = closed
                returns = items and port is not asker
                if returns:
                    port.upto = port.delivered  # it is sent nothing that could overtake what it returns
                port.client.send(Recall(port.number, self._round, places, closed, returns))
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
