"""Answers that come through a pool: each tells the balancer what has come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from sage.llm.balancer import Balancer, Grant
from sage.llm.client import StreamedAnswer
from sage.llm.connection import Take
from sage.llm.upstream import RawAnswer
from sage.llm.wire import Completion

CHARACTERS_PER_TOKEN = 4
"""For estimates only: which endpoint has how much to do, and which job was served how much."""


class PooledAnswer:
    """The text of an answer as it comes, from `EndpointPool.stream`; to be iterated once. `endpoint` is the URL."""

    def __init__(self, streamed: StreamedAnswer, grant: Grant, balancer: Balancer) -> None:
        self._streamed = streamed
        self._grant = grant
        self._balancer = balancer
        self._first: str | None = None
        self.endpoint = grant.endpoint

    @property
    def completion(self) -> Completion:
        """The whole answer, once all of it has come; before that a RuntimeError."""
        return self._streamed.completion

    async def begin(self) -> None:
        """Wait for the first text, or for the end of an answer without one."""
        self._first = await anext(self, None)
        if self._first is None:
            self._balancer.progress(self._grant, loop_time(), self.completion.completion_tokens or 1)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._first is not None:
            text, self._first = self._first, None
            return text
        text = await anext(self._streamed)
        self._balancer.progress(self._grant, loop_time(), len(text) / CHARACTERS_PER_TOKEN)
        return text


class RelayedAnswer:
    """An answer as it comes, unread, from `EndpointPool.relay`. Whoever reads it tells how many tokens came."""

    def __init__(self, answer: RawAnswer, grant: Grant, balancer: Balancer) -> None:
        self._answer = answer
        self._grant = grant
        self._balancer = balancer
        self.status = answer.status
        self.content_type = answer.content_type
        self.endpoint = grant.endpoint
        self.granted_at = grant.at
        """When it was sent, by the event loop's clock."""
        self.first = b""
        """Its first bytes; empty if it has none."""

    async def begin(self) -> None:
        """Wait for the first bytes."""
        self.first = await self._answer.piece()

    async def piece(self) -> bytes:
        """The bytes after `first`, as they come; empty at the end. Raises as `EndpointPool.relay`."""
        return await self._answer.piece()

    async def pour(self, take: Take, drained: Callable[[], Awaitable[None]]) -> None:
        """Give the bytes after `first` to `take` as they are read, to their end, without waking a task for each; while
        `take` has enough, nothing is read until `drained`. Raises as `piece`, and what `take` raises."""
        await self._answer.pour(take, drained)

    def came(self, tokens: float) -> None:
        """So many tokens of the answer have come."""
        self._balancer.progress(self._grant, loop_time(), tokens)

    def used(self, prompt_tokens: int) -> None:
        """What the prompt cost, exactly."""
        self._grant.ticket.prompt_tokens = prompt_tokens


def loop_time() -> float:
    """What all times here and in the gateway are by: the clock of the running event loop."""
    return asyncio.get_running_loop().time()
