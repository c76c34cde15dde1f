"""A real OpenAI-compatible server on loopback that misbehaves on command.

Used in a thread of the test process::

    with MisbehavingEndpoint() as endpoint:
        endpoint.script(["500", "429:2", "ok"])
        ... call endpoint.url ...
        assert len(endpoint.requests) == 3

Each chat completion takes the next word of the script; after the last one every answer is good. The words:

=================  ===============================================================================================
``ok``             a good answer, streamed if it was asked for as a stream: ``ok: <the last message>``, or, where a
                   JSON schema was asked for, a value that fits
``ok:TEXT``        a good answer that says TEXT
``slow:SECONDS``   a good answer after a while
``json``           a good answer that is not streamed, although a stream was asked for
``bare``           a good stream without token counts
``comments``       a good stream with comments, other fields and CRLF between its chunks
``length``         an answer cut off by ``max_tokens``; ``filtered``: by a content filter
``silence``        nothing at all; ``headers``: headers and then nothing
``stop:N``         N chunks and then nothing
``drip:SECONDS``   a comment every SECONDS, for ever
``cut:N``          N chunks, then the response ends without ``[DONE]``
``no-reason``      a stream with ``[DONE]`` and without ``finish_reason``
``half-line``      the last ``data:`` line stops in its middle
``abort:N``        N chunks, then the connection is reset
``reset``          the connection is closed before any byte; ``not-http``: after bytes that are not HTTP
``STATUS``         an error of that status in OpenAI's form; ``429:VALUE``, ``503:VALUE``: with that ``Retry-After``
``stalled-429``    the headers of a 429 with ``Retry-After: 7``, and never its body
``unknown-model``  404; ``context``: 400, prompt too long; ``policy``: 400, content filter; ``quota``: 429 for good
``echo-key``       401 that repeats the key it was sent
``vllm-400``       an error in the form of older vLLM servers; ``detail-422``: in FastAPI's; ``text-500``: plain text
``error-200``      200 with an error; ``error-chunk``: the same after a chunk
``bad-utf8``, ``surrogate``, ``nan``, ``wrong-type``, ``no-choices``, ``deep``, ``html``, ``empty``: garbage in a 200
``huge``           50 MB of JSON; ``huge-line``: a ``data:`` line of 2 MB; ``huge-text``: 10 MB of good chunks
``gzip-bomb``      a small compressed answer that unpacks to 50 MB
``redirect:URL``   307 to URL
=================  ===============================================================================================
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from ports import free_port
from sage.llm.listening import HttpListener
from sage.llm.simulated.schema import example_of

MODEL = "test-model"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    peer: Any
    """The client's address: equal for requests on one connection."""


class MisbehavingEndpoint:
    """See the module. `models` is what ``/v1/models`` lists, or its status; `key`, if given, is required."""

    def __init__(self, *, models: list[str] | int | None = None, key: str | None = None) -> None:
        self.models: list[str] | int = [MODEL] if models is None else models
        self.requests: list[Seen] = []
        """Chat completions, in the order in which they came."""
        self.listings: list[Seen] = []
        """Requests for the list of models."""
        self.abandoned = threading.Semaphore(0)
        """Released for each request whose client went away before its answer was complete."""
        self.in_flight = 0
        self.peak_in_flight = 0
        self.url = ""
        self._key = key
        self._script: deque[str] = deque()
        self._thread = threading.Thread(target=self._run, name="misbehaving-endpoint", daemon=True)
        self._ready = threading.Event()

    def script(self, words: Iterable[str]) -> None:
        """What to do with the next chat completions."""
        self._script.extend(words)

    def drop_script(self) -> None:
        """From now on every answer is good."""
        self._script.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        listener = HttpListener(app, shutdown_timeout_s=0)
        await listener.open("127.0.0.1", 0)
        self.url = listener.url
        self._ready.set()
        await self._stop.wait()
        await listener.close()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self.listings.append(await _seen(request))
        if self._refuses(request):
            return _failure(401, "Incorrect API key provided.", "invalid_api_key")
        if isinstance(self.models, int):
            return _failure(self.models, "no list")
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        seen = await _seen(request)
        self.requests.append(seen)
        word, _, value = (self._script.popleft() if self._script else "ok").partition(":")
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            if self._refuses(request):
                return _failure(401, "Incorrect API key provided.", "invalid_api_key")
            if word.isdigit():
                return _failure(int(word), f"the test says {word}", retry_after=value)
            return await _ACTS[word](Exchange(request, seen), value)
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned.release()
            raise
        finally:
            self.in_flight -= 1

    def _refuses(self, request: web.Request) -> bool:
        return self._key is not None and request.headers.get("Authorization") != f"Bearer {self._key}"


async def _seen(request: web.Request) -> Seen:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    raw = await request.read()
    return Seen(request.method, request.path, dict(request.headers), json.loads(raw) if raw else None, peer)


@dataclass(frozen=True)
class Exchange:
    """One request that is being answered."""

    request: web.Request
    seen: Seen

    @property
    def text(self) -> str:
        asked = self.seen.body.get("response_format", {}).get("json_schema")
        return json.dumps(example_of(asked["schema"])) if asked else f"ok: {self.seen.body['messages'][-1]['content']}"

    async def good(self, text: str, finish_reason: str = "stop") -> web.StreamResponse:
        if not self.seen.body.get("stream"):
            return self.whole(text, finish_reason)
        return await self.stream([*_chunks(text), _chunk("", finish_reason), _usage(text), DONE])

    def whole(self, text: str, finish_reason: str = "stop") -> web.StreamResponse:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        usage = {"prompt_tokens": 7, "completion_tokens": len(text.split())}
        return web.json_response({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    async def stream(self, pieces: Iterable[bytes] | AsyncIterator[bytes], *, end: bool = True) -> web.StreamResponse:
        """Send `pieces` as they are, and end the response unless told otherwise."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(self.request)
        if isinstance(pieces, AsyncIterator):
            async for piece in pieces:
                await response.write(piece)
        else:
            for piece in pieces:
                await response.write(piece)
        if end:
            await response.write_eof()
        return response

    async def hang(self) -> web.StreamResponse:
        await asyncio.Event().wait()  # until the client goes away, or the server is stopped
        raise AssertionError("never set")

    def drop(self, last_words: bytes = b"", *, reset: bool = False) -> web.StreamResponse:
        transport = self.request.transport
        assert transport is not None
        transport.write(last_words)
        if reset:
            transport.abort()
        else:
            transport.close()
        return web.Response()


def _chunk(text: str | None, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    document = {"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _chunks(text: str) -> list[bytes]:
    words = text.split(" ")
    return [_chunk(word if i == 0 else f" {word}") for i, word in enumerate(words)]


def _usage(text: str) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": len(text.split())}
    return b"data: " + json.dumps({"model": MODEL, "choices": [], "usage": usage}).encode() + b"\n\n"


def _failure(status: int, message: str, code: str | None = None, retry_after: str = "") -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after else None
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)


Act = Callable[[Exchange, str], Awaitable[web.StreamResponse]]
_ACTS: dict[str, Act] = {}


def act(*words: str) -> Callable[[Act], Act]:
    def register(function: Act) -> Act:
        _ACTS.update(dict.fromkeys(words, function))
        return function

    return register


@act("ok")
async def _ok(exchange: Exchange, text: str) -> web.StreamResponse:
    return await exchange.good(text or exchange.text)


@act("slow")
async def _slow(exchange: Exchange, seconds: str) -> web.StreamResponse:
    await asyncio.sleep(float(seconds))
    return await exchange.good(exchange.text)


@act("json")
async def _json(exchange: Exchange, _: str) -> web.StreamResponse:
    return exchange.whole(exchange.text)


@act("indented")
async def _indented(exchange: Exchange, _: str) -> web.StreamResponse:
    whole = exchange.whole(exchange.text)
    return web.Response(body=json.dumps(json.loads(str(whole.text)), indent=2), content_type="application/json")


@act("bare")
async def _bare(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([*_chunks(exchange.text), _chunk(None, "stop"), DONE])


@act("comments")
async def _comments(exchange: Exchange, _: str) -> web.StreamResponse:
    good = b"".join([*_chunks(exchange.text), _chunk("", "stop"), _usage(exchange.text), DONE])
    noisy = b": keep-alive\r\n\r\nevent: message\r\nid: 1\r\n" + good.replace(b"\n\n", b"\r\n\r\n: ping\r\n\r\n")
    return await exchange.stream([noisy[i : i + 7] for i in range(0, len(noisy), 7)])


@act("length")
async def _length(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.good("cut off", "length")


@act("filtered")
async def _filtered(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.good("cut off", "content_filter")


@act("silence")
async def _silence(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.hang()


@act("headers")
async def _headers(exchange: Exchange, _: str) -> web.StreamResponse:
    await exchange.stream([], end=False)
    return await exchange.hang()


@act("stop")
async def _stop(exchange: Exchange, count: str) -> web.StreamResponse:
    await exchange.stream([_chunk("word ")] * int(count), end=False)
    return await exchange.hang()


@act("drip")
async def _drip(exchange: Exchange, seconds: str) -> web.StreamResponse:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b":\n"
            await asyncio.sleep(float(seconds))

    return await exchange.stream(drops())


@act("cut")
async def _cut(exchange: Exchange, count: str) -> web.StreamResponse:
    return await exchange.stream([_chunk("word ")] * int(count))


@act("no-reason")
async def _no_reason(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([_chunk("word "), DONE])


@act("half-line")
async def _half_line(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([_chunk("word "), _chunk("word", "stop").rstrip()])


@act("abort")
async def _abort(exchange: Exchange, count: str) -> web.StreamResponse:
    await exchange.stream([_chunk("word ")] * int(count), end=False)
    return exchange.drop(reset=True)


@act("reset")
async def _reset(exchange: Exchange, _: str) -> web.StreamResponse:
    return exchange.drop(reset=True)


@act("not-http")
async def _not_http(exchange: Exchange, _: str) -> web.StreamResponse:
    return exchange.drop(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


@act("stalled-429")
async def _stalled(exchange: Exchange, _: str) -> web.StreamResponse:
    response = web.StreamResponse(status=429, headers={"Retry-After": "7"})
    await response.prepare(exchange.request)
    return await exchange.hang()


_FAILURES: dict[str, tuple[int, dict[str, Any]]] = {
    "unknown-model": (404, {"error": {"message": "The model `x` does not exist.", "code": "model_not_found"}}),
    "context": (
        400,
        {"error": {"message": "maximum context length is 4096 tokens", "code": "context_length_exceeded"}},
    ),
    "policy": (400, {"error": {"message": "The prompt was filtered.", "code": "content_filter"}}),
    "policy-403": (403, {"error": {"message": "The prompt was filtered.", "code": "content_filter"}}),
    "quota": (429, {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}),
    "vllm-400": (
        400,
        {"object": "error", "message": "max_tokens is too large", "type": "BadRequestError", "code": 400},
    ),
    "detail-422": (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}),
    "error-200": (200, {"error": {"message": "upstream failed", "code": 502}}),
}


def _fail_as(status: int, document: dict[str, Any]) -> Act:
    async def answer(_exchange: Exchange, _: str) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return answer


_ACTS.update({word: _fail_as(status, document) for word, (status, document) in _FAILURES.items()})


@act("text-500")
async def _text_500(_exchange: Exchange, _: str) -> web.StreamResponse:
    return web.Response(status=500, text="Internal Server Error")


@act("echo-key")
async def _echo_key(exchange: Exchange, _: str) -> web.StreamResponse:
    return _failure(401, f"Incorrect API key provided: {exchange.seen.headers.get('Authorization')}")


@act("error-chunk")
async def _error_chunk(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([_chunk("word "), b'data: {"error": {"message": "engine died"}}\n\n', DONE])


_GARBAGE = {
    "bad-utf8": b'{"choices": [{"delta": {"content": "\xff\xfe"}, "finish_reason": "stop"}]}',
    "surrogate": b'{"choices": [{"delta": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
    "nan": b'{"choices": [{"delta": {"content": "x"}, "finish_reason": "stop", "logprobs": NaN}]}',
    "wrong-type": b'{"choices": [{"delta": {"content": 5}, "finish_reason": "stop"}]}',
    "no-choices": b'{"choices": null}',
    "deep": b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "html": b"<html>Sign in to the wireless network</html>",
}


def _garbage(document: bytes) -> Act:
    async def answer(exchange: Exchange, _: str) -> web.StreamResponse:
        if exchange.seen.body.get("stream"):
            return await exchange.stream([b"data: " + document + b"\n\n", DONE])
        return web.Response(body=document, content_type="application/json")

    return answer


_ACTS.update({word: _garbage(document) for word, document in _GARBAGE.items()})


@act("empty")
async def _empty(_exchange: Exchange, _: str) -> web.StreamResponse:
    return web.Response(body=b"", content_type="application/json")


@act("huge")
async def _huge(exchange: Exchange, _: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(exchange.request)
    await response.write(b'{"choices": [{"message": {"content": "')
    for _n in range(50):
        await response.write(b"x" * (1 << 20))
    await response.write(b'"}, "finish_reason": "stop"}]}')
    await response.write_eof()
    return response


@act("huge-line")
async def _huge_line(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([b"data: " + b" " * (2 << 20)])


@act("huge-text")
async def _huge_text(exchange: Exchange, _: str) -> web.StreamResponse:
    return await exchange.stream([_chunk("x" * 500_000)] * 20)


@act("gzip-bomb")
async def _gzip_bomb(_exchange: Exchange, _: str) -> web.StreamResponse:
    bomb = gzip.compress(b" " * (50 << 20))
    return web.Response(body=bomb, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


@act("redirect")
async def _redirect(_exchange: Exchange, url: str) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": url})


def closed_port_url() -> str:
    """A URL on loopback at which nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


@contextmanager
def deaf_port_url() -> Iterator[str]:
    """A URL on loopback whose listener never accepts and whose backlog is full: connecting to it takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = []
        try:
            for _ in range(4):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(server.getsockname())
                waiting.append(client)
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for client in waiting:
                client.close()


@contextmanager
def canary() -> Iterator[tuple[str, list[object]]]:
    """A URL, and the list of everybody who ever connected to it."""
    visitors: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def watch() -> None:
            while True:
                try:
                    client, address = server.accept()
                except OSError:
                    return
                visitors.append(address)
                client.close()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/chat/completions", visitors
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
