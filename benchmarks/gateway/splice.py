"""A proxy that copies bytes and does nothing else: what one more process in the way costs on this machine."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast
from urllib.parse import urlsplit

import uvloop


class End(asyncio.Protocol):
    """One end of a connection; what it reads goes to the other."""

    def __init__(self, other: End | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.other.early += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Accepted(End):
    """The client's end, which connects to the endpoint."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(End(self))
        self._at = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_connection(lambda: cast(End, self.other), *self._at))


async def serve(url: str) -> None:
    at = urlsplit(url)
    assert at.hostname, f"not a URL: {url}"
    host, port = at.hostname, at.port or 80
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Accepted(host, port), "127.0.0.1", 0, backlog=1024)
    print("http://{}:{}".format(*listening.sockets[0].getsockname()) + at.path, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(serve(sys.argv[1]))
