"""The event loop of a host, on a thread of its own, and how other threads wake what waits on it."""

from __future__ import annotations

import asyncio
import select
import selectors
import threading
from collections.abc import Coroutine
from typing import Any

CANCEL_GRACE_S = 2.0
"""How long cancelled calls may take to end before they are left behind."""


class PreciseSelector(selectors.DefaultSelector):
    """Waits as long as it is told. Epoll counts in milliseconds and asyncio rounds up: each timer would be half
    a millisecond late; `select` on the selector's own descriptor counts in microseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and self._can_wait:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)

    @property
    def _can_wait(self) -> bool:
        return isinstance(self, selectors.EpollSelector) and self.fileno() < 1024


class EventLoopThread:
    """One event loop on a thread of its own, for all async steps of a host. Started at the first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` on the loop; it handles its own errors."""
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop(PreciseSelector())
            self._thread = threading.Thread(target=_live, args=(self._loop,), name="sage-event-loop", daemon=True)
            self._thread.start()
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the loop. Whatever still runs on it is left unfinished; a call that holds the loop up is left behind."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_GRACE_S)


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """Run `loop` until it is stopped, and close it, however late that is."""
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class Signal:
    """Something changed: set from any thread, awaited by one coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """From any thread; after the loop's end it does nothing."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def set_here(self) -> None:
        """From the loop's own thread; cheaper."""
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()
