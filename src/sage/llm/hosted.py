"""A server on an event loop of its own, on a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from sage.errors import MissingDependency


class AsyncServer(Protocol):
    """What is hosted."""

    url: str

    async def start(self) -> None:
        """Returns when it listens; raises if it cannot."""

    async def close(self) -> None:
        """Break every connection. Also after `start` raised."""


class HostedServer(ABC):
    """Serves from ``with`` to its end; `url` is set in between."""

    def __init__(self, name: str, needed_for: str) -> None:
        self.url = ""
        self._needed_for = needed_for
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    @abstractmethod
    def _make(self) -> AsyncServer:
        """The server, on its own thread."""

    def _run_loop(self, serve: Coroutine[Any, Any, None]) -> None:
        asyncio.run(serve)

    def __enter__(self) -> Self:
        try:
            import aiohttp  # noqa: F401 -- before a thread is started
        except ImportError as error:
            raise MissingDependency("aiohttp", "llm", self._needed_for) from error
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._run_loop(self._serve())
        except BaseException as error:  # noqa: BLE001 -- raised where it was asked for, in `__enter__`
            self._failed = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = self._make()
        try:
            await server.start()
            self.url = server.url
            self._started.set()
            await self._stop.wait()
        finally:
            await server.close()
