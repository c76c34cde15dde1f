"""What never becomes a request, or dies in the gateway itself, in OpenAI's form too. Needs aiohttp."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from sage.gateway.faults import Refusal

LINGERING_S = 2.0
"""For the rest of a body that was refused: who is cut off while sending does not see why."""
HEAD_TIMEOUT_S = 30.0
"""For the head of a request, from its first byte. A connection that sends nothing costs next to nothing, and may."""
MAX_HEAD_BYTES = 64 << 10
"""Of all headers together."""


class Connection(web.RequestHandler):
    """One client's connection. A compressed body stays as it is: nobody here unpacks what it does not take."""

    __slots__ = ("_body", "_head_alarm", "_head_bytes")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, auto_decompress=False, lingering_time=LINGERING_S, **options)
        self._head_alarm: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._silence()
            self._body = self._messages[-1][1]
        elif self._body.is_eof() and self._current_request is None and not self._messages:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._give_up(too_large())
            elif self._head_alarm is None:
                self._head_alarm = self._loop.call_later(HEAD_TIMEOUT_S, self._give_up, _too_slow())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._silence()
        super().connection_lost(exc)

    def _silence(self) -> None:
        self._head_bytes = 0
        if self._head_alarm is not None:
            self._head_alarm.cancel()
            self._head_alarm = None

    def _give_up(self, refusal: Refusal) -> None:
        """The head of a request has not come."""
        if self.transport is not None and not self.transport.is_closing():
            status = b"%d %b" % (refusal.status, HTTPStatus(refusal.status).phrase.encode())
            head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nConnection: close\r\n" % status
            self.transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(refusal.body), refusal.body))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What went wrong before there was a request, or in spite of everything; then the connection is closed."""
        if status >= 500:
            super().handle_error(request, status, exc, message)  # to the log
        text = "the request is not HTTP as it should be" if status < 500 else "the gateway failed"
        refusal = Refusal(status, text, code="bad_http" if status < 500 else "internal_error")
        response = refused(refusal)
        response.force_close()
        return response


def too_large() -> Refusal:
    return Refusal(400, f"the headers are larger than {MAX_HEAD_BYTES} bytes together", code="bad_http")


def _too_slow() -> Refusal:
    return Refusal(408, f"the head of the request did not come within {HEAD_TIMEOUT_S:g} s", code="bad_http")


def refused(refusal: Refusal) -> web.Response:
    """The answer that says so."""
    return web.Response(
        status=refusal.status, body=refusal.body, content_type="application/json", headers=refusal.headers
    )


async def expected(request: web.Request) -> web.Response | None:
    """What a client expects before it sends its body: to be told to go on, or nothing that is known here."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return refused(Refusal(417, "only 100-continue can be expected"))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0
    return None
