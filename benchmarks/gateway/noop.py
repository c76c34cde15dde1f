"""An endpoint that answers at once, as cheaply as Python can: what is measured is what stands before it."""

from __future__ import annotations

import asyncio
import signal
from typing import cast

import uvloop
from benchmarks.gateway.clients import MODEL

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"%b","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}' % MODEL.encode()
)
MODELS = b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % MODEL.encode()


class NoOp(asyncio.Protocol):
    """HTTP as far as clients of it need: a Content-Length, requests one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            _, found, length = head.partition(b"content-length:")
            size = end + 4 + (int(length.split(b"\r\n", 1)[0]) if found else 0)
            if len(self._rest) < size:
                return
            self._rest = self._rest[size:]
            body = ANSWER if head.startswith(b"post") else MODELS
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            self._transport.write(answer % (len(body), body))


async def serve() -> None:
    listening = await asyncio.get_running_loop().create_server(NoOp, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(serve())
