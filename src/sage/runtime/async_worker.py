"""The worker of an async step: it lives on the event loop of its host."""

from __future__ import annotations

import threading

from sage.runtime.asynchronous import AsyncStage
from sage.runtime.control import Control
from sage.runtime.eventloop import EventLoopThread, Signal
from sage.runtime.worker import Ended, Opened, Tell


class AsyncWorker:
    """Runs one `AsyncStage` on the event loop, with the same life as a `ThreadWorker`."""

    def __init__(self, name: str, stage: AsyncStage, loop: EventLoopThread, control: Control) -> None:
        self.name = name
        self.task = stage.plan.name
        self.first = True
        self._stage = stage
        self._loop = loop
        self._go = threading.Event()
        self._ended = threading.Event()
        self._control = control
        self._started = False
        self._wake: Signal | None = None

    def start(self, tell: Tell) -> None:
        self._started = True
        self._loop.run(self._run(tell))

    def go(self) -> None:
        self._go.set()
        if self._wake is not None:
            self._wake.set()

    def join(self, timeout_s: float) -> bool:
        return not self._started or self._ended.wait(timeout_s)

    async def _run(self, tell: Tell) -> None:
        error: BaseException | None = None
        try:
            self._wake = Signal()
            self._control.on_abort(self._wake.set)
            await self._stage.open_async()
            tell(Opened(self.name))
            while not self._go.is_set():
                self._control.check()
                await self._wake.wait()
            self._control.check()
            await self._stage.run()
        except BaseException as raised:  # noqa: BLE001 -- the task's outermost edge: it becomes an outcome
            error = raised
        try:
            await self._stage.close_async()
        except BaseException as raised:  # noqa: BLE001 -- as above
            error = error or raised
        tell(Ended(self.name, error))
        self._ended.set()
