"""The driver's end of one host."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence

from sage import settings
from sage.errors import HostError
from sage.runtime.deadletters import reason_of
from sage.runtime.engine import HostHandle
from sage.runtime.messages import Lost, Parcel, Setup, name_of

LEASE_TICKS = 15
"""A host that says nothing for so many seconds is lost; it says something every two, at least."""


class Member:
    """A thread that starts the host and waits for its end, one that reads, one that writes.

    Writing has a thread of its own because a host that was stopped does not read, and nothing may wait for it.
    """

    def __init__(self, number: int, tasks: Sequence[str], handle: HostHandle, plan: Parcel) -> None:
        self.number = number
        self.closed = False
        self.ended = threading.Event()
        self._tasks = tasks
        self._handle = handle
        self._setup = Setup(number, list(sys.path), os.getcwd(), settings.inheritable(), plan)
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._tell: Callable[[object], None]
        self._heard = 0
        self._seen: tuple[int, float | None] = 0, None
        self._silent_ticks = 0

    def start(self, tell: Callable[[object], None]) -> None:
        """Start the host; what it says, and its end, go to `tell`."""
        self._tell = tell
        threading.Thread(target=self._live, name=f"sage-{name_of(self.number)}", daemon=True).start()

    def send(self, message: object) -> None:
        """Send soon. Never waits, and a host that is gone hears nothing."""
        self._outbox.put(message)

    @property
    def process(self) -> int | None:
        return self._handle.process

    def kill(self) -> None:
        self._handle.kill()

    def tick(self) -> None:
        """A second of the driver's own time is over: give a host up that shows no sign of life. By one thread.

        A process whose only thread that may run Python does not come back from a long call uses its processor.
        """
        if not self._heard or self.ended.is_set():
            return
        now = self._heard, self._handle.processor_s()
        self._silent_ticks = self._silent_ticks + 1 if now == self._seen else 0
        self._seen = now
        if self._silent_ticks == LEASE_TICKS:
            self._tell(
                Lost(self.number, f"nothing was heard of it for {LEASE_TICKS} s: it, or its machine, stands still")
            )
            self.kill()

    def lost(self, why: str) -> HostError:
        """The error of a run that lost this host."""
        return HostError(
            "E810", f"{name_of(self.number)} is lost: {why}", at=f"steps {', '.join(self._tasks)}",
            try_="dmesg, if nobody killed it: the system does where memory is short",
        )  # fmt: skip

    def _live(self) -> None:
        try:
            self._handle.start(self._setup)
        except Exception as error:  # noqa: BLE001 -- of the system, of Ray: nobody else would hear of it
            why = error.strerror if isinstance(error, OSError) else reason_of(error)
            self._tell(Lost(self.number, f"it could not be started ({why})"))
            self._handle.link.close()
            self.ended.set()
            return
        talk = [
            threading.Thread(target=work, name=f"sage-{name_of(self.number)}.{work.__name__}", daemon=True)
            for work in (self._read, self._write)
        ]
        for thread in talk:
            thread.start()
        why = self._handle.wait()
        self._outbox.put(None)
        for thread in talk:
            thread.join()
        self._handle.link.close()
        self._tell(Lost(self.number, why))
        self.ended.set()

    def _read(self) -> None:
        try:
            while (message := self._handle.link.receive()) is not None:
                self._heard += 1
                self._tell(message)
        except Exception as error:  # noqa: BLE001 -- whatever unpickling raised: nobody waits for more from this host
            self._tell(Lost(self.number, f"what it says cannot be unpickled ({reason_of(error)})"))
            self.kill()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._handle.link.send(message)
            except OSError:  # it is gone
                return
