"""An aiohttp application that listens at an address. Needs aiohttp."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from aiohttp import web

from sage.errors import PipelineError

BACKLOG = 4096
SHUTDOWN_S = 1.0
"""For handlers that were cancelled to end."""
ACCEPT_TURNS = 4
"""Turns of the event loop until what was accepted is a connection: its task, its transport, `connection_made`."""


class HttpListener:
    """One application at one address, in the running event loop. `open` it, and `close` it.

    `protocol` speaks HTTP on each connection; another one than aiohttp's can say in its own way what is no HTTP.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        shutdown_timeout_s: float = SHUTDOWN_S,
        protocol: type[web.RequestHandler] = web.RequestHandler,
    ) -> None:
        self.url = ""
        """``http://host:port`` once it is open."""
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=shutdown_timeout_s)
        self._protocol = protocol
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 is any that is free. Raises `PipelineError` E248 if the port is taken or the address is not
        ours."""
        await self._runner.setup()
        assert self._runner.server is not None, "it was set up"
        try:
            loop = asyncio.get_running_loop()
            options: dict[str, Any] = {"loop": loop, "access_log": None}
            connected = partial(self._protocol, self._runner.server, **options)
            self._server = await loop.create_server(connected, host, port, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            at = f"{host}:{port}"
            reason = str(error).rpartition(": ")[2]  # asyncio tells the address once more
            raise PipelineError("E248", "cannot listen here", at=at, got=reason, try_="another port") from error
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Break every connection, and let go of the port. Also if it never opened."""
        if self._server is not None:
            await self._stop_accepting(self._server)
            self._server.close()
        await self._runner.cleanup()

    async def _stop_accepting(self, server: asyncio.Server) -> None:
        """asyncio forgets connections, open, that it accepted just before its server was closed (CPython 109564)."""
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
