"""One request that is being answered: its answer on the way through, and what it used. Needs aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from sage.gateway.cache import Copy, Kept
from sage.gateway.faults import ClientGone, Refusal
from sage.gateway.figures import Figures
from sage.gateway.ledger import Used
from sage.gateway.relay import EventRelay, Usage, usage_of
from sage.gateway.requests import BYTES_PER_TOKEN, Asked
from sage.llm.pooled import RelayedAnswer, loop_time
from sage.llm.wire import HalfAnswer, TooLarge

MAX_ANSWER_BYTES = 64 << 20
"""Of an answer that is not streamed: embeddings are long."""
MAX_UNSENT_BYTES = 64 << 10
"""For a client that reads slowly; then its endpoint has to wait."""
UNREAD_TIMEOUT_S = 60.0
"""A client that takes nothing for so long is gone."""
EVENTS = "text/event-stream"


class Exchange:
    """From a request's arrival to the end of its answer: `admitted`, one of `answer`, `replay` and `fail`, and `used`.

    `headers` go into the answer. With a `copy` the answer is kept, and `kept` once it is whole.
    """

    def __init__(self, request: web.Request, asked: Asked, arrived_at: float, figures: Figures) -> None:
        self.asked = asked
        self.headers: dict[str, str] = {}
        self.copy: Copy | None = None
        self._request = request
        self._arrived_at = arrived_at
        self._admitted_at = arrived_at
        self._granted_at: float | None = None
        self._figures = figures
        self._events = EventRelay(asked.usage_wanted)
        self._usage: Usage | None = None
        self._reused_tokens = self._whole_bytes = 0
        self._complete = False
        self._stream: web.StreamResponse | None = None

    def admitted(self) -> None:
        """It is read, and waits for its turn."""
        self._admitted_at = loop_time()

    async def answer(self, answer: RelayedAnswer) -> web.StreamResponse:
        """Pass it on. Raises what `RelayedAnswer.piece` raises, and `ClientGone`."""
        self._granted_at = answer.granted_at
        self._trace(answer)
        if answer.status == 200 and answer.content_type.startswith(EVENTS):
            return await self._pass_events(answer)
        body = await read_whole(answer)
        self.headers["X-SAGE-Endpoint-Ms"] = _ms(loop_time() - answer.granted_at)
        if answer.status == 200:
            self._usage, self._whole_bytes = usage_of(body), len(body)
            self._complete = True
            self._settle(answer, 0)
            if self.copy is not None:
                self.copy.add(body)
        return web.Response(status=answer.status, body=body, headers=self.headers)

    async def replay(self, kept: Kept) -> web.StreamResponse:
        """Give an answer again. Raises `ClientGone`."""
        self._complete = True
        self._reused_tokens = kept.tokens
        self.headers |= {"Content-Type": kept.content_type, "X-SAGE-Admission-Ms": _ms(loop_time() - self._arrived_at)}
        if not kept.content_type.startswith(EVENTS):
            return web.Response(body=kept.body, headers=self.headers)
        stream = await self._begun()
        await _heard(stream.write(kept.body))
        return await _ended(stream)

    async def fail(self, refusal: Refusal) -> web.StreamResponse:
        """Say so: as an answer, or as the last event of a stream that has begun, which then has no ``[DONE]``."""
        if self._stream is None:
            raise refusal
        await _heard(self._stream.write(b"data: " + refusal.body + b"\n\n"))
        return await _ended(self._stream)

    def kept(self) -> Kept | None:
        """To be given again: None for an answer that is not whole, not kept, or of unknown cost."""
        if self.copy is None or self._usage is None or not self._complete or (body := self.copy.whole) is None:
            return None
        tokens = self._usage.prompt_tokens + self._usage.completion_tokens
        return Kept(self.headers["Content-Type"], body, tokens)

    def used(self, key: str, job: str, step: str) -> Used:
        """For the ledger, when it is over."""
        now = loop_time()
        self._figures.whole.record(now - self._arrived_at)
        if self._granted_at is not None:
            self._figures.endpoint.record(now - self._granted_at)
        used = Used(key, job, step, self.asked.model, 1, int(not self._complete), reused_tokens=self._reused_tokens)
        if self._usage is None:
            return used._replace(estimated_tokens=self._estimated())
        prompt, completion = self._usage.prompt_tokens, self._usage.completion_tokens
        self._figures.used(self.asked.model, prompt, completion)
        return used._replace(prompt_tokens=prompt, completion_tokens=completion)

    def _estimated(self) -> int:
        """If an endpoint answered at all: a token for each event, or for what a whole answer has of bytes."""
        if self._granted_at is None or (self._stream is None and not self._complete):
            return 0
        return self.asked.estimate(self._events.events + self._whole_bytes // BYTES_PER_TOKEN)

    async def _begun(self) -> web.StreamResponse:
        stream = web.StreamResponse(headers=self.headers | {"Cache-Control": "no-cache"})
        stream.enable_chunked_encoding()
        await _heard(stream.prepare(self._request))
        self._stream = stream
        return stream

    async def _pass_events(self, answer: RelayedAnswer) -> web.StreamResponse:
        stream = await self._begun()
        events = self._events
        transport = self._request.transport

        def take(piece: bytes) -> bool:
            before = events.events
            if passed := events.feed(piece):
                self._send(transport, passed)
            answer.came(events.events - before)
            return transport is not None and transport.get_write_buffer_size() <= MAX_UNSENT_BYTES

        if not take(answer.first):
            await self._drained()
        await answer.pour(take, self._drained)
        self._usage = events.usage
        self._complete = events.done
        self._settle(answer, events.events)
        if not events.done:
            raise HalfAnswer("the stream ended without [DONE]")
        return await _ended(stream)

    def _send(self, transport: asyncio.Transport | None, data: bytes) -> None:
        """Straight to the transport, framed as a chunk by hand, which takes a third of the time of aiohttp's way."""
        if self.copy is not None:
            self.copy.add(data)
        if transport is None or transport.is_closing():
            raise ClientGone
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def _drained(self) -> None:
        """A slow client has read enough."""
        await _heard(self._request.writer.drain())

    def _settle(self, answer: RelayedAnswer, came: int) -> None:
        """Whose turn is next goes by what was really used."""
        if self._usage is not None:
            answer.used(self._usage.prompt_tokens)
            answer.came(max(0, self._usage.completion_tokens - came))

    def _trace(self, answer: RelayedAnswer) -> None:
        """Where the time went, so far."""
        admission_s = self._admitted_at - self._arrived_at
        queued_s = max(0.0, answer.granted_at - self._admitted_at)
        first_byte_s = loop_time() - answer.granted_at
        self._figures.admission.record(admission_s)
        self._figures.queued.record(queued_s)
        self._figures.first_byte.record(first_byte_s)
        self.headers |= {
            "Content-Type": answer.content_type,
            "X-SAGE-Admission-Ms": _ms(admission_s),
            "X-SAGE-Queue-Ms": _ms(queued_s),
            "X-SAGE-First-Byte-Ms": _ms(first_byte_s),
        }


async def read_whole(answer: RelayedAnswer) -> bytes:
    """Raises what `RelayedAnswer.piece` raises, and `TooLarge`."""
    pieces, size_bytes = [answer.first], len(answer.first)
    while pieces[-1]:
        pieces.append(await answer.piece())
        size_bytes += len(pieces[-1])
        if size_bytes > MAX_ANSWER_BYTES:
            raise TooLarge(f"more than {MAX_ANSWER_BYTES} bytes")
    return b"".join(pieces)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


async def _heard(saying: Awaitable[object]) -> None:
    """Wait for a client that reads slowly, unless it does not read at all."""
    try:
        async with asyncio.timeout(UNREAD_TIMEOUT_S):
            await saying
    except (ConnectionError, TimeoutError):
        raise ClientGone from None


async def _ended(stream: web.StreamResponse) -> web.StreamResponse:
    await _heard(stream.write_eof())
    return stream
