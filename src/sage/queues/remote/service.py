"""One served queue: who has it open, which places they hold, what they want, and the threads that see to it.

Frames of producers are put by the server's thread. Two threads of the service's own exist while there is something to
wait for: one takes items for consumers, one places for producers. Both wait in the queue itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from sage.queues.remote.feeding import CALL_S, Feeding
from sage.queues.remote.messages import (
    Ask,
    Back,
    Demand,
    Items,
    Message,
    Need,
    Refused,
    Returned,
    Settled,
    frame_of,
)
from sage.queues.remote.ports import Port
from sage.queues.remote.sending import kept_places
from sage.queues.remote.settling import NEVER
from sage.queues.remote.taking import Taking
from sage.queues.remote.transport import Parts
from sage.queues.serving import Served


class Service(Taking, Feeding):
    """Made and closed by its server. It is what its queue knows as its server (`Settles`)."""

    def __init__(self, queue: Served, wake: Callable[[], None]) -> None:
        """`wake` has `tick` called soon."""
        super().__init__(queue, wake)
        queue.attach_server(self)

    # --- for the server: its thread ---

    def attach(self, port: Port) -> Port:
        with self._lock:
            self._ports.append(port)
            if kept := kept_places(self.queue.maxsize):
                self._grant(port, kept, 0)
        return port

    def detach(self, port: Port) -> None:
        """Take back all that `port` holds."""
        with self._feeding, self._lock:  # what is being sent to it is taken back too
            if port not in self._ports:
                return
            port.is_detached = True
            self._remove_if_over(port)
            port.upto = port.delivered
            port.needed = port.needed_size = 0
        self._confirm(port, port.delivered)
        self._take_back(port)
        for number in list(self._rounds):
            self._answered(number, port)

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
            case Returned():
                self._return(port, frame_of(message, parts))
            case Settled(round=number, back=back, got=got, size=size):
                self._release(port, back, size)
                self._take_back(port)
                self._confirm(port, got)
                port.needed = port.needed_size = 0  # whoever still needs some says so again
                self._answered(number, port)
            case Ask():
                self._asked(port, message)

    def _asked(self, port: Port, question: Ask) -> None:
        match question.what:
            case "room":
                self._ask_room(port, question)
            case "items" | "more":
                self._ask_items(port, question)
            case "size":
                self._settle(False, lambda: self._answer(port, question, self.queue.size()))
            case "depth":
                self._answer(port, question, self.queue.size())
            case "close":
                self._close_queue(lambda: self._answer(port, question, 0))
            case "look":
                self._accept(port)
                port.prompt = port.accepted < port.frames or bool(port.waiting_frames)

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again."""
        if now >= self._accept_at:
            self._accept_at = NEVER
            for port in list(self._ports):
                self._accept(port)
        wanted = self.queue.is_wanted() or any(port.takes_items for port in list(self._ports))
        again = now + CALL_S if wanted and self._call_for_items() else NEVER
        return min(self._accept_at, self._give_up_on_silent(now), again)

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
            self._take_back(port)
        for thread in (self._feeder, self._granter):
            if thread is not None:
                thread.join()

    def _close_queue(self, then: Callable[[], None]) -> None:
        """Close the queue, which waits for the clients to settle: not on the thread that hears them."""

        def close() -> None:
            self.queue.close()
            then()

        threading.Thread(target=close, name="sage-queue-close", daemon=True).start()
