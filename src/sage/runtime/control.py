"""Stopping: the one thing that every wait in a run can be woken by."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Aborted(BaseException):
    """The run was aborted while a thread of it waited or worked. An operator's ``except Exception`` misses it."""


class Control:
    """`stop` asks sources to read no more and parked records to give up; `abort` ends everything at once."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.aborted = threading.Event()
        self._lock = threading.Lock()
        self._on_stop: list[Callable[[], None]] = []
        self._on_abort: list[Callable[[], None]] = []

    def stop(self) -> None:
        self._set(self.stopping, self._on_stop)

    def abort(self) -> None:
        self.stop()
        self._set(self.aborted, self._on_abort)

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` (quick, from any thread) when a stop is asked for; at once if it already was."""
        self._register(self.stopping, self._on_stop, callback)

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Call `callback` (quick, from any thread) at an abort; at once if it already happened."""
        self._register(self.aborted, self._on_abort, callback)

    def pause(self, seconds: float) -> bool:
        """Wait; True if the whole time passed, False if a stop or abort came first."""
        return not self.stopping.wait(seconds)

    def check(self) -> None:
        if self.aborted.is_set():
            raise Aborted

    def _set(self, event: threading.Event, callbacks: list[Callable[[], None]]) -> None:
        with self._lock:
            if event.is_set():
                return
            event.set()
            todo = tuple(callbacks)
        for callback in todo:
            callback()

    def _register(
        self, event: threading.Event, callbacks: list[Callable[[], None]], callback: Callable[[], None]
    ) -> None:
        with self._lock:
            callbacks.append(callback)
            late = event.is_set()
        if late:
            callback()
