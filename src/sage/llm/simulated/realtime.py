"""The engine under the clock of an event loop: one timer, and who is told what a step brought."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sage.llm.simulated.engine import Engine
from sage.llm.simulated.exposition import Figures
from sage.llm.simulated.profile import Profile
from sage.llm.simulated.sequence import EngineSnapshot, Request, Running


class Listener(Protocol):
    """Who waits for a sequence. Called in the event loop; may not wait, and may not raise."""

    def token(self, sequence: Running) -> None:
        """There is one more."""

    def finished(self, sequence: Running) -> None:
        """After its last `token`."""


class Driver:
    """One simulated server's engine. Made and used in the event loop `loop`."""

    def __init__(self, profile: Profile, seed: int, loop: asyncio.AbstractEventLoop) -> None:
        self.figures = Figures(profile)
        self._engine = Engine(profile, seed)
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: dict[object, Listener] = {}

    def submit(self, request: Request, listener: Listener) -> None:
        """Raises ValueError for a request that could never run."""
        self._engine.submit(request, self._advance())
        self._listeners[request.id] = listener
        self._wind_up()

    def cancel(self, request_id: object) -> None:
        """Its place is free at once; nothing happens if it has ended."""
        if self._listeners.pop(request_id, None) is None:
            return
        if self._engine.cancel(request_id, self._advance()):
            self.figures.ended("abort")

    def set_capacity(self, factor: float) -> None:
        """See `Engine.set_capacity`."""
        self._engine.set_capacity(factor)

    def snapshot(self) -> EngineSnapshot:
        return self._engine.snapshot()

    def close(self) -> None:
        """Nothing happens any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._listeners.clear()

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._wind_up()

    def _wind_up(self) -> None:
        if self._timer is None and (at := self._engine.next_event()) is not None:
            self._timer = self._loop.call_at(at, self._tick)

    def _advance(self) -> float:
        """Tell everybody what happened until now, and return that time."""
        listeners = self._listeners
        now = self._loop.time()
        while (step := self._engine.advance(now)) is not None:
            self.figures.record(step)
            for sequence in step.tokens:
                listener = listeners.get(sequence.request.id)
                if listener is not None:
                    listener.token(sequence)
            for sequence in step.finished:
                listener = listeners.pop(sequence.request.id, None)
                if listener is not None:
                    listener.finished(sequence)
        return now
