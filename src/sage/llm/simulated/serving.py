"""Requests that cost tokens, from their body to the end of their answer. Needs aiohttp.

Events of a stream go straight to the transport, framed as chunks by hand: aiohttp's own way costs three times the
processor time (12 against 4.5 us a chunk, docs/endpoints.md). Nothing waits for a slow reader: what is buffered for it
is bounded by `max_model_len`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from aiohttp import HttpVersion11, web

from sage.llm.simulated import wire
from sage.llm.simulated.answers import Answer
from sage.llm.simulated.delivery import ChoiceStream, Waiting
from sage.llm.simulated.faults import Fault, Faults
from sage.llm.simulated.generation import EMBEDDING_SIZE, Generator, Job
from sage.llm.simulated.generation import embedding as vector
from sage.llm.simulated.misbehaving import chunked, instead, partly
from sage.llm.simulated.realtime import Driver, Listener
from sage.llm.simulated.sequence import Request
from sage.llm.simulated.text import TOKEN_BYTES, block_hashes
from sage.llm.simulated.wire import Refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Priced = Callable[[web.Request, bytes, Fault | None], Awaitable[web.StreamResponse]]


class Serving:
    """The handlers of what costs tokens. `driver` and `faults` may be replaced at any time: what is under way stays
    with those that it began with."""

    def __init__(self, generator: Generator, driver: Driver, faults: Faults) -> None:
        self.driver = driver
        self.faults = faults
        self._generator = generator
        self._numbers = itertools.count(1)

    def handler(self, priced: Priced) -> Handler:
        """A route that costs tokens: here faults befall requests."""

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            fault = self.faults.draw()
            if fault is not None and (answered := await instead(request, fault)) is not None:
                return answered
            return await priced(request, body, fault)

        return handle

    async def chat(self, request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
        asked = wire.decode(wire.ChatRequest, body)
        return await self._respond(request, asked, self._generator.chat(asked), fault)

    async def completion(self, request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
        asked = wire.decode(wire.CompletionRequest, body)
        return await self._respond(request, asked, self._generator.completion(asked), fault)

    async def _respond(
        self, request: web.Request, asked: wire.Sampling, job: Job, fault: Fault | None
    ) -> web.StreamResponse:
        if not asked.stream:
            return await self._respond_whole(request, job, asked.priority, fault)
        if request.version < HttpVersion11:
            raise Refusal(400, "a stream needs HTTP/1.1", param="stream")
        if fault is not None:
            return await partly(request, job.answer.events(), fault, "text/event-stream")
        answer = job.answer
        response = chunked("text/event-stream; charset=utf-8")
        await response.prepare(request)
        assert request.transport is not None
        waiting = Waiting(len(answer.choices))
        streams = [ChoiceStream(waiting, answer, i, request.transport.write) for i in range(len(answer.choices))]
        with self._submitted(job.prompts, _outputs(answer), asked.priority, streams):
            await waiting.done
        self._count(answer)
        await response.write_eof()
        return response

    async def _respond_whole(
        self, request: web.Request, job: Job, priority: int, fault: Fault | None
    ) -> web.StreamResponse:
        answer = job.answer
        if fault is not None:
            return await partly(request, [answer.whole(0)], fault, "application/json")
        waiting = Waiting(len(answer.choices))
        with self._submitted(job.prompts, _outputs(answer), priority, [waiting] * len(answer.choices)):
            await waiting.done
        self._count(answer)
        return web.Response(body=answer.whole(waiting.cached), content_type="application/json")

    async def embedding(self, request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
        asked = wire.decode(wire.EmbeddingRequest, body)
        inputs = self._generator.inputs(asked)
        waiting = Waiting(len(inputs))
        with self._submitted(inputs, [""] * len(inputs), 0, [waiting] * len(inputs)):
            await waiting.done
        size = asked.dimensions or EMBEDDING_SIZE
        data = [
            {"object": "embedding", "index": i, "embedding": vector(text, size, asked.encoding_format)}
            for i, text in enumerate(inputs)
        ]
        tokens = sum(map(len, inputs)) // TOKEN_BYTES
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        whole = {"object": "list", "model": self._generator.profile.model, "data": data, "usage": usage}
        if fault is not None:
            return await partly(request, [json.dumps(whole).encode()], fault, "application/json")
        return web.json_response(whole)

    @contextmanager
    def _submitted(
        self, prompts: Sequence[bytes], outputs: Sequence[str], priority: int, listeners: Sequence[Listener]
    ) -> Iterator[None]:
        """In the engine until the end of the block, however it comes."""
        driver, number = self.driver, next(self._numbers)
        ids = [(number, index) for index in range(len(prompts))]
        try:
            for id_, prompt, output, listener in zip(ids, prompts, outputs, listeners, strict=True):
                text = output.encode()
                blocks = block_hashes(prompt + text)
                request = Request(id_, len(prompt) // TOKEN_BYTES, -(-len(text) // TOKEN_BYTES), blocks, priority)
                driver.submit(request, listener)
            yield
        finally:
            for id_ in ids:
                driver.cancel(id_)

    def _count(self, answer: Answer) -> None:
        for choice in answer.choices:
            self.driver.figures.ended("length" if choice.finish_reason == "length" else "stop")


def _outputs(answer: Answer) -> list[str]:
    return [choice.text for choice in answer.choices]
