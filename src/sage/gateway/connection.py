"""What never becomes a request, or dies in the gateway itself, in OpenAI's form too. Needs aiohttp."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from sage.gateway.faults import Refusal

LINGERING_S = 2.0
"""For the rest of a body that was refused: who is cut off while sending does not see why."""


class Connection(web.RequestHandler):
    """One client's connection. A compressed body stays as it is: nobody here unpacks what it does not take."""

    __slots__ = ()

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, auto_decompress=False, lingering_time=LINGERING_S, **options)

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
