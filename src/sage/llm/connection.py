"""One connection to an endpoint: httptools (llhttp) reads HTTP, and each read of the socket goes to who takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from sage.llm.answer import Patience
from sage.llm.wire import HalfAnswer, WireFault

MAX_HEAD_BYTES = 64 << 10
MOST_UNREAD_BYTES = 256 << 10
"""Of an answer that nobody takes yet; then its endpoint has to wait."""
_KEPT = {
    name.lower().encode(): name
    for name in (
        "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Retry-After", "Date", "Location",
    )
}  # fmt: skip
"""Headers that mean something to us."""

Take = Callable[[bytes], bool]
"""Gets what was read, at once; False: it has enough for now."""


class Connection(asyncio.Protocol):
    """One connection to the endpoint: one answer after the other."""

    def __init__(self, parser: Callable[[Connection], Any]) -> None:
        self.free_since = 0.0
        self._make_parser = parser
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._take: Take | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._complete = False
        self._begin(None)

    def ask(self, request: bytes, patience: Patience) -> None:
        assert self._transport is not None, "it was connected"
        self._begin(patience)
        self._transport.write(request)

    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def is_reusable(self) -> bool:
        """Its answer has ended, and another one may follow."""
        good = self._complete and self._keeps_alive and self._failure is None and not self._is_paused
        return good and self.is_usable()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers that mean something."""
        while not self._answered:
            await self._wait()
        return self._status, self._headers

    async def piece(self) -> bytes:
        """What has come of the body; empty at its end."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        piece = self._unread()
        self._resume()
        return piece

    async def pour(self, take: Take, drained: Callable[[], Awaitable[None]]) -> None:
        """Give the body to `take` as it comes, to its end; while `take` has enough, wait until `drained`: that time is
        not the endpoint's."""
        self._take = take
        if self._pieces:
            self._give()
        while True:
            if self._is_paused and self._failure is None:
                assert self._patience is not None
                self._patience.hold()
                await drained()
                self._patience.go_on()
                self._resume()
            elif self._complete and not self._pieces:
                return
            else:
                await self._wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._patience is None or self._complete:  # nobody asked
            self.abort()
            return
        self._patience.chunk_came()
        try:
            self._parser.feed_data(data)
            if self._pieces and self._take is not None:
                self._give()
        except Exception as error:  # noqa: BLE001 -- raised where the answer is waited for
            self._fail(_of_parser(error))
        if self._waiter is not None and (self._take is None or self._complete):
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._complete or self._patience is None:
            return
        if self._answered and not self._headers.keys() & {"Content-Length", "Transfer-Encoding"} and exc is None:
            self._complete, self._keeps_alive = True, False  # such a body ends with its connection
            self._wake()
        elif self._answered:
            self._fail(HalfAnswer("the connection was closed in the middle"))
        else:
            self._fail(ConnectionResetError("the connection was closed"))

    # Called by httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            raise WireFault("more than one answer")
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise WireFault(f"headers of more than {MAX_HEAD_BYTES} bytes")
        if kept := _KEPT.get(name.lower()):
            self._headers[kept] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._answered = self._status >= 200
        if self._headers.get("Content-Encoding", "identity") != "identity":
            raise WireFault("a compressed answer, though none was asked for")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._unread_bytes += len(body)
        if self._take is None and self._unread_bytes > MOST_UNREAD_BYTES:
            self._pause()

    def on_message_complete(self) -> None:
        if self._answered:
            self._complete = True
            self._keeps_alive = self._parser.should_keep_alive()
        else:  # 100 Continue and its like
            self._headers = {}

    def _begin(self, patience: Patience | None) -> None:
        self._patience = patience
        self._parser = self._make_parser(self)
        self._status = self._head_bytes = self._unread_bytes = 0
        self._headers, self._pieces = {}, []
        self._take = self._waiter = self._failure = None
        self._answered = self._complete = self._keeps_alive = self._is_paused = False

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        await self._waiter
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self.abort()
        self._wake()

    def _unread(self) -> bytes:
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._unread_bytes = [], 0
        return piece

    def _give(self) -> None:
        assert self._take is not None
        if not self._take(self._unread()):
            self._pause()
            self._wake()

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused and self._transport is not None:
            self._transport.resume_reading()
        self._is_paused = False


def _of_parser(error: Exception) -> Exception:
    """Of httptools, or of what it called, which it wraps; any other is as it was."""
    import httptools

    if not isinstance(error, httptools.HttpParserError | httptools.HttpParserUpgrade):
        return error
    return error.__context__ if isinstance(error.__context__, WireFault) else WireFault(f"not HTTP: {error}")
