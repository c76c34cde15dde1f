"""Streams as their client sees them, read from bare sockets.

aiohttp's client takes more processor time for a stream than the gateway does: where they share two cores, it is then
the client that is measured.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
from benchmarks.gateway.clients import MODEL

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_QUEUED = re.compile(rb"\r\nX-SAGE-Queue-Ms: *([0-9.]+)")
_TOTAL = re.compile(rb'"total_tokens": ?(\d+)')
_ENDING = b"\r\n0\r\n\r\n"
_TAIL_BYTES = 1000


class Stream(NamedTuple):
    """One answer, as its client saw it."""

    first_token_s: float
    whole_s: float
    queued_s: float
    """Waiting in the gateway for room at the endpoint: what the adaptive limit decided."""
    tokens: int
    """Of the prompt and the answer, as the endpoint counts."""


class Refused(Exception):
    """Another status than 200, after `after_s`."""

    def __init__(self, status: int, after_s: float) -> None:
        super().__init__(status)
        self.status = status
        self.after_s = after_s


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._over: asyncio.Future[None] | None = None

    async def ask(self, request: bytes) -> Stream:
        self._head = self._tail = b""
        self._size_bytes = 0
        self._over = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(request)
        await self._over
        whole_s = time.perf_counter() - began
        status = int(self._head.split(b" ", 2)[1])
        if status != 200:
            raise Refused(status, whole_s)
        queued, total = _QUEUED.search(self._head), _TOTAL.search(self._tail)
        assert self._tail.endswith(b"data: [DONE]\n\n" + _ENDING), "half an answer"
        assert total, "no usage"
        return Stream(self._first_at - began, whole_s, float(queued[1]) / 1e3 if queued else 0.0, int(total[1]))

    def data_received(self, data: bytes) -> None:
        if not self._head:
            self._head, found, data = (self._tail + data).partition(b"\r\n\r\n")
            if not found:
                self._head, self._tail = b"", self._head
                return
            self._tail = b""
            length = _LENGTH.search(self._head)
            self._length = int(length[1]) if length else None
        if data and not self._size_bytes:
            self._first_at = time.perf_counter()
        self._size_bytes += len(data)
        self._tail = self._tail[-_TAIL_BYTES:] + data
        ended = self._tail.endswith(_ENDING) if self._length is None else self._size_bytes >= self._length
        if ended and self._over is not None:
            self._over.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(ConnectionResetError("half an answer"))


class Asking:
    """Of the server at `url`, over connections that are used again. Made by `asking`."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._host, self._port, self._path = at.hostname, at.port, at.path
        self.idle: list[_Connection] = []

    async def ask(self, prompt: str, tokens: int, key: str = "", **headers: str) -> Stream:
        """One streamed chat; raises if it is not a whole answer."""
        body = msgspec.json.encode({
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        })  # fmt: skip
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        lines = [f"POST {self._path}/chat/completions HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection = self.idle.pop() if self.idle else await self._connected()
        try:
            stream = await connection.ask("\r\n".join([*lines, "", ""]).encode() + body)
        except Refused:
            self.idle.append(connection)
            raise
        self.idle.append(connection)
        return stream

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asking]:
    opened = Asking(url)
    try:
        yield opened
    finally:
        for connection in opened.idle:
            connection.transport.close()


async def burst(url: str, concurrency: int, requests: int, tokens: int) -> tuple[list[Stream], float]:
    """So many streams, `concurrency` of them at once; and how long they took. Answers are from half of `tokens` to one
    and a half times as long: those that all ended together would all begin together, and wait for one another."""
    numbers = iter(range(requests))
    streams: list[Stream] = []

    async def client() -> None:
        for number in numbers:
            length = tokens // 2 + number * 37 % (tokens + 1)
            streams.append(await opened.ask(f"Question {number}: what is it?", length))

    async with asking(url) as opened:
        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return streams, time.perf_counter() - began
