"""The answers of a server that misbehaves (`sage.llm.simulated.faults`). Needs aiohttp."""

from __future__ import annotations

import asyncio

from aiohttp import web

from sage.llm.simulated.faults import DRIP_S, Fault
from sage.llm.simulated.wire import error_body

GARBAGE = b'{"id": "\xff\xfe", "choices": [{"delta": NaN,,'


def chunked(content_type: str) -> web.StreamResponse:
    """The head of an answer that comes in chunks."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.enable_chunked_encoding()
    return response


async def instead(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    """What is answered whatever is asked; None for faults of an answer, which `partly` sends."""
    if fault.status is not None:
        return _failure(fault, fault.status)
    match fault.kind:
        case "silence":
            return await _for_ever()
        case "reset":
            return reset(request)
        case "garbage":
            return web.Response(body=GARBAGE, content_type="application/json")
    return None


async def partly(request: web.Request, pieces: list[bytes], fault: Fault, content_type: str) -> web.StreamResponse:
    """An answer that does not come as it should; a whole document is first cut into ten."""
    if len(pieces) == 1:
        size = -(-len(pieces[0]) // 10)
        pieces = [pieces[0][i : i + size] for i in range(0, len(pieces[0]), size)]
    response = chunked(content_type)
    await response.prepare(request)
    if fault.kind == "drip":
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(float(fault.value or DRIP_S))
    else:
        await response.write(b"".join(pieces[: len(pieces) // 2]))
    if fault.kind == "stall":
        return await _for_ever()
    if fault.kind == "cut":
        return reset(request)
    await response.write_eof()
    return response


def reset(request: web.Request) -> web.StreamResponse:
    """Break its connection."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _failure(fault: Fault, status: int) -> web.Response:
    value = fault.retry_after()
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    body = error_body(f"simulated fault {fault.text}", kind)
    headers = None if value is None else {"Retry-After": value}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


async def _for_ever() -> web.StreamResponse:
    await asyncio.get_running_loop().create_future()  # until the client goes away, or the server is closed
    raise AssertionError("nobody has this future")
