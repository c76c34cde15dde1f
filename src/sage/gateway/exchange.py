"""One request that is being answered: its answer on the way through, and what it used. Needs aiohttp."""

from __future__ import annotations

import asyncio
import math

from aiohttp import web

from sage.gateway.faults import ClientGone, Refusal
from sage.gateway.figures import Figures
from sage.gateway.ledger import Used
from sage.gateway.relay import EventRelay, Usage, usage_of
from sage.gateway.requests import Asked
from sage.llm.pool import RelayedAnswer
from sage.llm.wire import HalfAnswer, TooLarge

MAX_ANSWER_BYTES = 64 << 20
"""Of an answer that is not streamed: embeddings are long."""
MAX_UNSENT_BYTES = 64 << 10
"""For a client that reads slowly; then its endpoint has to wait."""


class Exchange:
    """From a request's arrival to the end of its answer: `admitted`, then `answer` or `fail`, and `used` at the end."""

    def __init__(self, request: web.Request, asked: Asked, arrived_at: float, figures: Figures) -> None:
        self._request = request
        self.asked = asked
        self._arrived_at = arrived_at
        self._admitted_at = arrived_at
        self._granted_at: float | None = None
        self._figures = figures
        self._events = EventRelay(asked.usage_wanted)
        self._usage: Usage | None = None
        self._complete = False
        self._stream: web.StreamResponse | None = None

    def admitted(self) -> None:
        """It is read, and waits for its turn."""
        self._admitted_at = _now()

    async def answer(self, answer: RelayedAnswer) -> web.StreamResponse:
        """Pass it on. Raises what `RelayedAnswer.piece` raises, and `ClientGone`."""
        self._granted_at = answer.granted_at
        headers = self._trace(answer)
        if answer.status == 200 and answer.content_type.startswith("text/event-stream"):
            return await self._pass_events(answer, headers)
        pieces, size_bytes = [answer.first], len(answer.first)
        while pieces[-1]:
            pieces.append(await answer.piece())
            size_bytes += len(pieces[-1])
            if size_bytes > MAX_ANSWER_BYTES:
                raise TooLarge(f"more than {MAX_ANSWER_BYTES} bytes")
        body = b"".join(pieces)
        headers["X-SAGE-Endpoint-Ms"] = _ms(_now() - answer.granted_at)
        if answer.status == 200:
            self._usage = usage_of(body)
            self._complete = True
            self._settle(answer, 0)
        return web.Response(status=answer.status, body=body, headers=headers)

    async def fail(self, refusal: Refusal) -> web.StreamResponse:
        """Say so: as an answer, or as the last event of a stream that has begun, which then has no ``[DONE]``."""
        if self._stream is None:
            raise refusal
        await _written(self._stream, b"data: " + refusal.body + b"\n\n")
        await self._stream.write_eof()
        return self._stream

    def used(self, key: str, job: str, step: str) -> Used:
        """For the ledger, when it is over."""
        now = _now()
        self._figures.whole.record(now - self._arrived_at)
        if self._granted_at is not None:
            self._figures.endpoint.record(now - self._granted_at)
        failed = int(not self._complete)
        if self._usage is None:
            return Used(key, job, step, self.asked.model, 1, failed, estimated_tokens=self._estimated())
        prompt, completion = self._usage.prompt_tokens, self._usage.completion_tokens
        self._figures.used(self.asked.model, prompt, completion)
        return Used(key, job, step, self.asked.model, 1, failed, prompt, completion)

    def _estimated(self) -> int:
        """The prompt by its length, and a token for each event, if an answer began at all."""
        if self._stream is None:
            return 0
        return math.ceil(self.asked.prompt_tokens) + self._events.events

    async def _pass_events(self, answer: RelayedAnswer, headers: dict[str, str]) -> web.StreamResponse:
        stream = web.StreamResponse(headers={**headers, "Cache-Control": "no-cache"})
        stream.enable_chunked_encoding()
        try:
            await stream.prepare(self._request)
        except ConnectionError:
            raise ClientGone from None
        self._stream = stream
        events, piece = self._events, answer.first
        while piece:
            before = events.events
            if passed := events.feed(piece):
                await self._send(stream, passed)
            answer.came(events.events - before)
            piece = await answer.piece()
        self._usage = events.usage
        self._complete = events.done
        self._settle(answer, events.events)
        if not events.done:
            raise HalfAnswer("the stream ended without [DONE]")
        try:
            await stream.write_eof()
        except ConnectionError:
            raise ClientGone from None
        return stream

    async def _send(self, stream: web.StreamResponse, data: bytes) -> None:
        """Straight to the transport, framed as a chunk by hand, which takes a third of the time; through aiohttp where
        the client is slow, because that waits for it."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            await _written(stream, data)
        else:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _settle(self, answer: RelayedAnswer, came: int) -> None:
        """Whose turn is next goes by what was really used."""
        if self._usage is not None:
            answer.used(self._usage.prompt_tokens)
            answer.came(max(0, self._usage.completion_tokens - came))

    def _trace(self, answer: RelayedAnswer) -> dict[str, str]:
        """Where the time went, so far."""
        admission_s = self._admitted_at - self._arrived_at
        queued_s = max(0.0, answer.granted_at - self._admitted_at)
        first_byte_s = _now() - answer.granted_at
        self._figures.admission.record(admission_s)
        self._figures.queued.record(queued_s)
        self._figures.first_byte.record(first_byte_s)
        return {
            "Content-Type": answer.content_type,
            "X-SAGE-Admission-Ms": _ms(admission_s),
            "X-SAGE-Queue-Ms": _ms(queued_s),
            "X-SAGE-First-Byte-Ms": _ms(first_byte_s),
        }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


async def _written(stream: web.StreamResponse, data: bytes) -> None:
    try:
        await stream.write(data)
    except ConnectionError:
        raise ClientGone from None


def _now() -> float:
    return asyncio.get_running_loop().time()
