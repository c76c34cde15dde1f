"""One answer as it arrives: how long to wait for each part of it, and how much of it to take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal

from sage.errors import PipelineError
from sage.llm import wire
from sage.llm.wire import Completion

if TYPE_CHECKING:
    import aiohttp

ERROR_BODY_TIMEOUT_S = 2.0
ERROR_BODY_BYTES = 64 << 10
DRAIN_TIMEOUT_S = 1.0
SLACK = 0.05
"""Of `between_chunks_s`, by which its end may come late."""

Phase = Literal["connect", "first_byte", "between_chunks", "total"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may take, in seconds: `between_chunks_s` from the last bytes that came (a comment that keeps
    the connection alive counts as bytes), the others from the start of the call. Each is finite and more than 0."""

    connect_s: float
    first_byte_s: float
    between_chunks_s: float
    total_s: float

    def __post_init__(self) -> None:
        if not all(0 < limit_s < math.inf for limit_s in astuple(self)):
            raise PipelineError("E242", "a timeout cannot be this", got=self, expected="seconds, each more than 0")


class NotConnected(OSError):
    """Nothing accepts connections there."""


class ConnectTimeout(TimeoutError):
    """No connection within `connect_s`."""


class Patience:
    """The one timer of a call, set anew in each phase. Made in the task that waits."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._clock = asyncio.get_running_loop().time
        start = self._clock()
        self._end = start + timeouts.total_s
        self._chunks = 0
        self._due = self._held_at = 0.0
        self.answered = False
        """True once the headers of an answer have come."""
        self.timer = asyncio.timeout_at(min(self._end, start + timeouts.first_byte_s))

    def chunk_came(self) -> None:
        """The timer is set anew once in a `SLACK`, not for every chunk: that would cost as much as the chunk."""
        self._chunks += 1
        slack_s = SLACK * self._timeouts.between_chunks_s
        due = self._clock() + self._timeouts.between_chunks_s
        if (self._chunks == 1 or due > self._due) and not self.timer.expired():
            self._due = due + slack_s
            self.timer.reschedule(min(self._end, self._due))

    def hold(self) -> None:
        """The answer waits for us now, until `go_on`."""
        self._held_at = self._clock()
        self.lift()

    def go_on(self) -> None:
        """The time since `hold` was not the endpoint's."""
        now = self._clock()
        self._end += now - self._held_at
        self._due = now + self._timeouts.between_chunks_s
        if not self.timer.expired():
            self.timer.reschedule(min(self._end, self._due))

    def lift(self) -> None:
        """What was waited for is there; what follows has a limit of its own."""
        self.timer.reschedule(None)

    def phase(self) -> Phase:
        """Of the timeout that ran out."""
        if self.timer.when() == self._end:
            return "total"
        return "between_chunks" if self._chunks else "first_byte"

    def limit_s(self, phase: Phase) -> float:
        match phase:
            case "connect":
                return self._timeouts.connect_s
            case "first_byte":
                return self._timeouts.first_byte_s
            case "between_chunks":
                return self._timeouts.between_chunks_s
            case "total":
                return self._timeouts.total_s


class Answer:
    """An answer whose headers have come."""

    def __init__(self, response: aiohttp.ClientResponse, patience: Patience) -> None:
        self._response = response
        self._patience = patience

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def content_type(self) -> str:
        return self._response.headers.get("Content-Type", "application/octet-stream")

    async def completion(self) -> Completion:
        gathered = wire.Gathered()
        async for _ in self.texts(gathered):
            pass
        return gathered.completion()

    async def texts(self, gathered: wire.Gathered) -> AsyncIterator[str]:
        """The text as it comes, while `gathered` takes everything. Raises `HalfAnswer` unless it ends as it should."""
        if self._response.content_type != "text/event-stream":
            yield gathered.take(await self.body())
            return
        events = wire.Events()
        while piece := await self.piece():
            for document in events.feed(piece):
                if document == b"[DONE]":
                    await self._drain()
                    return
                if text := gathered.take(document):
                    yield text
        raise wire.HalfAnswer("the stream ended without [DONE]")

    async def body(self) -> bytes:
        pieces = []
        size_bytes = 0
        while piece := await self.piece():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > wire.MAX_ANSWER_BYTES:
                raise wire.TooLarge(f"more than {wire.MAX_ANSWER_BYTES} bytes")
        return b"".join(pieces)

    async def error_body(self) -> bytes:
        """What can be had quickly of the body of a failure: the status says enough."""
        import aiohttp

        self._patience.lift()
        body = b""
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                while len(body) < ERROR_BODY_BYTES and (piece := await self._response.content.readany()):
                    body += piece
        return body[:ERROR_BODY_BYTES]

    async def piece(self) -> bytes:
        """The next bytes as they come; empty at the end."""
        if self._response.headers.get("Content-Encoding", "identity") != "identity":
            raise wire.WireFault("a compressed answer, though none was asked for")
        piece = await self._response.content.readany()
        self._patience.chunk_came()
        return piece

    async def _drain(self) -> None:
        """Wait a moment for the end of the response, without which its connection cannot be used again."""
        import aiohttp

        self._patience.lift()
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._response.content.readany()
