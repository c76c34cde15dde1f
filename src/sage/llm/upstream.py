"""Connections to one endpoint for answers that nobody here reads: bytes go from its socket to whoever takes them.

aiohttp's client, which `sage.llm.client` asks with, costs a relay several times the processor time (docs/gateway.md):
it makes objects of what is only passed on, and wakes a task for each piece.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from sage.errors import MissingDependency
from sage.llm.answer import (
    ERROR_BODY_BYTES,
    ERROR_BODY_TIMEOUT_S,
    ConnectTimeout,
    NotConnected,
    Patience,
    Timeouts,
)
from sage.llm.connection import Connection
from sage.llm.wire import WireFault
from sage.settings import Secret
from sage.version import __version__

KEEPALIVE_S = 4.0  # less than uvicorn's 5 s, so that we do not send into a connection that it is just closing


class RawAnswer:
    """An answer whose head has come. `first` is what was read of its body, once `begin` has returned."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str], patience: Patience) -> None:
        self.status = status
        self.headers = headers
        self.content_type = headers.get("Content-Type", "application/octet-stream")
        self.piece = connection.piece
        self.pour = connection.pour
        self._patience = patience

    async def error_body(self) -> bytes:
        """What can be had quickly of the body of a failure: the status says enough."""
        self._patience.lift()
        body = b""
        with suppress(TimeoutError, OSError, WireFault):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < ERROR_BODY_BYTES and (piece := await self.piece()):
                    body += piece
        return body[:ERROR_BODY_BYTES]


class Upstream:
    """The connections to the endpoint at `url`, used in one event loop. `open` it, and `close` it.

    The key goes to that host only; nothing is followed, and no proxy is used.
    """

    def __init__(self, url: str, key: Secret | None, timeouts: Timeouts) -> None:
        self._url = url
        self._key = key
        self._timeouts = timeouts
        self.idle: list[Connection] = []
        """The one that was used last stands last."""
        self._sweep: asyncio.TimerHandle | None = None
        self._busy: set[Connection] = set()

    def open(self) -> None:
        """Connects to nothing yet. Raises `MissingDependency` where httptools is missing."""
        try:
            import httptools
            import yarl
        except ImportError as error:
            raise MissingDependency("httptools", "gateway", "the gateway") from error
        self._parser = httptools.HttpResponseParser
        url = yarl.URL(self._url)
        self._host, self._port, self._path = url.raw_host or "", url.port or 80, url.raw_path.rstrip("/")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        lines = [f"Host: {url.raw_authority}", f"User-Agent: sage-pipelines/{__version__}"]
        lines += ["Accept: */*", "Accept-Encoding: identity", "Content-Type: application/json"]
        if self._key is not None:
            lines.append(f"Authorization: Bearer {self._key.reveal()}")
        self._head = "".join(f"{line}\r\n" for line in lines).encode()

    def close(self) -> None:
        """Break every connection. May be called twice."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in (*self._busy, *self.idle):
            connection.abort()
        self.idle.clear()

    @asynccontextmanager
    async def ask(self, path: str, body: bytes, patience: Patience) -> AsyncIterator[RawAnswer]:
        """POST `body`. Leaving the block before the answer's end closes its connection."""
        connection = self._kept() or await self._connected()
        self._busy.add(connection)
        try:
            line = f"POST {self._path}{path} HTTP/1.1\r\n".encode()
            connection.ask(b"%b%bContent-Length: %d\r\n\r\n%b" % (line, self._head, len(body), body), patience)
            status, headers = await connection.head()
            patience.answered = True
            yield RawAnswer(connection, status, headers, patience)
        finally:
            self._busy.remove(connection)
            self._release(connection)

    def _kept(self) -> Connection | None:
        old = asyncio.get_running_loop().time() - KEEPALIVE_S
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable() and connection.free_since > old:
                return connection
            connection.abort()
        return None

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                made = partial(Connection, self._parser)
                _, connection = await loop.create_connection(made, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise ConnectTimeout from None
        except ssl.SSLError:
            raise
        except OSError as error:
            raise NotConnected(str(error)) from error
        return connection

    def _release(self, connection: Connection) -> None:
        if not connection.is_reusable():
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.free_since = loop.time()
        self.idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEPALIVE_S, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        old = loop.time() - KEEPALIVE_S
        while self.idle and (self.idle[0].free_since <= old or not self.idle[0].is_usable()):
            self.idle.pop(0).abort()
        self._sweep = loop.call_later(KEEPALIVE_S / 4, self._close_old) if self.idle else None
