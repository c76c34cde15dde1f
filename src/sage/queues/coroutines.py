"""Coroutines that wait for a queue: one thread waits for all of them, and takes nothing on their behalf."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_WAIT_S = 1.0  # how long the thread may stay after the last coroutine gave up


class Waiting:
    """Those that wait at one end of a queue. `wait` waits there, at most so many seconds, for a change."""

    def __init__(self, wait: Callable[[float], None]) -> None:
        self._wait = wait
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._running = False

    async def for_change(self, timeout: float | None) -> None:
        """Return when an attempt is worth while; raises `TimeoutError`. May be cancelled at any time."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._waiting.append((loop, future))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="sage-queue-coroutines", daemon=True).start()
        async with asyncio.timeout(timeout):
            await future

    def _run(self) -> None:
        while self._someone_waits():
            self._wait(_WAIT_S)
            self._wake_one()

    def _someone_waits(self) -> bool:
        with self._lock:
            while self._waiting and _is_over(*self._waiting[0]):
                self._waiting.popleft()
            self._running = bool(self._waiting)
            return self._running

    def _wake_one(self) -> None:
        """One is enough: whoever gets something leaves the rest to the next turn."""
        with self._lock:
            loop, future = self._waiting.popleft()
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_wake, future)


def _is_over(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> bool:
    return future.done() or loop.is_closed()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
