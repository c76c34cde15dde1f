"""A client for one OpenAI-compatible endpoint: a prompt goes in, an answer or one of SAGE's errors comes out.

It does not retry, queue or limit: the engine has the one retry layer, and whoever shares an endpoint limits it. Codes
of the errors stand in `sage.llm.faults`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from sage.errors import EndpointBusy, EndpointRefused, MissingDependency, RecordError, SageError
from sage.llm import faults, wire
from sage.llm.answer import Answer, Patience, Timeouts
from sage.llm.upstream import KEEPALIVE_S, RawAnswer, Upstream
from sage.llm.wire import Completion, Message
from sage.settings import Secret, check_secret, check_url
from sage.version import __version__

if TYPE_CHECKING:
    import aiohttp

_OK = frozenset({200})
_ABSENT = frozenset({400, 404, 405, 501})
_THE_ASKERS = frozenset({400, 404, 405, 409, 413, 414, 422, 431})
"""Statuses by which an endpoint says that the request is wrong."""
_CHAT = "/chat/completions"
_VERSION = re.compile(r"/v\d[^/]*/?$")


class StreamedAnswer:
    """The text of an answer as it comes, from `ChatClient.stream`; to be iterated once."""

    def __init__(self, answer: Answer, at: str) -> None:
        self._gathered = wire.Gathered()
        self._texts = answer.texts(self._gathered)
        self._at = at
        self._completion: Completion | None = None
        self.failure: Exception | None = None
        """What went wrong with the answer, before it is translated."""

    @property
    def completion(self) -> Completion:
        """The whole answer, once all of it has come; before that a RuntimeError."""
        if self._completion is None:
            raise RuntimeError("the answer is not complete: iterate over it to its end")
        return self._completion

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            return await anext(self._texts)
        except StopAsyncIteration:
            completion = self._complete()
            if completion.finish_reason == "content_filter":
                raise faults.filtered(self._at) from None
            self._completion = completion
            raise
        except faults.foreign() as error:
            self.failure = error
            raise

    def _complete(self) -> Completion:
        try:
            return self._gathered.completion()
        except wire.HalfAnswer as error:
            self.failure = error
            raise


class ChatClient:
    """One endpoint, opened in the event loop that uses it. Any number of calls may be in flight at once.

    `url` is the base URL; ``/v1`` is added if it has no version. The key goes to that host only: redirects are not
    followed, proxies of the environment are not used, and no cookie is kept. Without a `model` the first one that the
    endpoint lists is used.
    """

    def __init__(
        self,
        url: str,
        key: Secret | str | None = None,
        model: str | None = None,
        *,
        connect_timeout_s: float = 5.0,
        first_byte_timeout_s: float = 60.0,
        between_chunks_timeout_s: float = 30.0,
        total_timeout_s: float = 300.0,
    ) -> None:
        url = check_url(url, "ChatClient(url=...)")
        self.url = url if re.search(r"/v\d", urlsplit(url).path) else f"{url}/v1"
        self.model = model
        self._key = check_secret(key, "ChatClient(key=...)") if isinstance(key, str) else key
        self._timeouts = Timeouts(connect_timeout_s, first_byte_timeout_s, between_chunks_timeout_s, total_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._upstream: Upstream | None = None
        """For `relay`, from its first use on."""
        self._choosing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"ChatClient({self.url!r}, model={self.model!r})"

    async def open(self) -> None:
        """Get ready; connects to nothing yet. Raises `MissingDependency` where aiohttp is not installed."""
        try:
            import aiohttp
        except ImportError as error:
            raise MissingDependency("aiohttp", "llm", "an LLM endpoint") from error
        headers = {"User-Agent": f"sage-pipelines/{__version__}", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect_s),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close every connection; calls in flight fail. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        **extra: Any,
    ) -> Completion:
        """Ask once: `model`, or the client's. `extra` goes into the request as it is (``stop``, ``response_format``,
        ``stream=False``, ...), `headers` beside those of the client.

        The answer is streamed underneath, so that a silent endpoint is noticed; it is returned whole or not at all.
        Raises `RecordError` (this prompt will never work), `EndpointBusy` (wait), `EndpointRefused` (nothing will
        ever work) or another `EndpointError` (this attempt failed). Cancelling it closes its connection at once.
        """
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, **extra}
        async with self.stream(messages, model=model, headers=headers, **options) as answer:
            async for _ in answer:
                pass
        return answer.completion

    @asynccontextmanager
    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        **extra: Any,
    ) -> AsyncIterator[StreamedAnswer]:
        """Ask once, and get the text as it comes::

            async with client.stream(messages) as answer:
                async for text in answer:
                    ...
            answer.completion  # the whole

        The same errors as of `complete`. An answer that stops before its end raises when it stops, after the texts that
        came: it is never taken for a whole one. Leaving the block early closes the connection. The timeouts run on
        while the block does something else.
        """
        model = model or self.model or await self._first_model()
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, **extra}
        callers: Exception | None = None
        async with self._call("POST", _CHAT, _encoded(model, messages, options), headers=headers) as answer:
            streamed = StreamedAnswer(answer, self._at(_CHAT))
            try:
                yield streamed
            except faults.foreign() as error:
                if error is streamed.failure:
                    raise
                callers = error
        if callers is not None:
            raise callers

    @asynccontextmanager
    async def relay(self, path: str, body: bytes) -> AsyncIterator[RawAnswer]:
        """Send `body` as it is, and get the answer as it comes, unread: also one by which the endpoint says that the
        request is wrong (400, 404, ...). Other errors as of `complete`. What the block raises must not be one of
        `sage.llm.faults.foreign`. Leaving it early closes the connection. Needs the extra ``gateway`` (httptools)."""
        at, patience = self._at(path), Patience(self._timeouts)
        upstream = self._opened()
        try:
            async with patience.timer, upstream.ask(path, body, patience) as answer:
                if answer.status != 200 and answer.status not in _THE_ASKERS:
                    said = wire.said(await answer.error_body())
                    raise faults.of_status(answer.status, answer.headers, said, at=at, key=self._key)
                yield answer
        except faults.foreign() as error:
            raise faults.of_exception(error, at=at, patience=patience, key=self._key) from None

    async def check(self, model: str | None = None) -> tuple[str, ...]:
        """Find out, before anything is paid for, whether the endpoint can work (with `model`, or the client's); returns
        the models that it lists.

        Raises `EndpointError` if nobody is there, `EndpointRefused` if the key or the model is not accepted. An
        endpoint that does not list models passes; one that does not list ours is asked for a single token.
        """
        try:
            listed = await self.models()
        except EndpointBusy as busy:
            if busy.code == "E722":
                raise faults.unreachable(busy, self.url) from None
            return ()
        model = model or self.model
        if listed and model and model not in listed:
            try:
                with suppress(EndpointBusy, RecordError):  # it knows the model, which may have other names
                    await self.complete([{"role": "user", "content": "Hi"}], model=model, max_tokens=1)
            except EndpointRefused as refused:
                raise faults.not_listed(refused, listed) from None
        return listed

    async def models(self) -> tuple[str, ...]:
        """The models that the endpoint lists; empty if it has no such list."""
        async with self._call("GET", "/models", accepted=_OK | _ABSENT) as answer:
            return wire.model_names(await answer.body()) if answer.status == 200 else ()

    async def load(self) -> tuple[float, float] | None:
        """How many requests the server runs and how many wait in it, everybody's together, by vLLM's ``/metrics``; None
        where they cannot be had."""
        try:
            async with self._call("GET", "/metrics", base=_VERSION.sub("", self.url)) as answer:
                return wire.vllm_load(await answer.body())
        except SageError:
            return None

    async def _first_model(self) -> str:
        async with self._choosing:
            if self.model is None:
                listed = await self.models()
                if not listed:
                    raise faults.no_model(self.url)
                self.model = listed[0]
        return self.model

    def _opened(self) -> Upstream:
        if self._session is None:
            raise RuntimeError(f"{self!r} is not open")
        if self._upstream is None:
            upstream = Upstream(self.url, self._key, self._timeouts)
            upstream.open()
            self._upstream = upstream
        return self._upstream

    def _at(self, path: str) -> str:
        return self.url + path

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        base: str = "",
        accepted: frozenset[int] = _OK,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """One request and its answer; whatever goes wrong inside comes out as one of SAGE's errors."""
        at = (base or self.url) + path
        if self._session is None:
            raise RuntimeError(f"{self!r} is not open")
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if body is not None else {})}
        patience = Patience(self._timeouts)
        try:
            async with (
                patience.timer,
                self._session.request(method, at, data=body, headers=sent, allow_redirects=False) as response,
            ):
                patience.answered = True
                answer = Answer(response, patience)
                if response.status not in accepted:
                    said = wire.said(await answer.error_body())
                    raise faults.of_status(response.status, response.headers, said, at=at, key=self._key)
                yield answer
        except faults.foreign() as error:
            # Not chained: aiohttp's errors carry the request's headers, and with them the key.
            raise faults.of_exception(error, at=at, patience=patience, key=self._key) from None


def _encoded(model: str, messages: Sequence[Message], options: dict[str, Any]) -> bytes:
    try:
        body = wire.chat_request(model, messages, options)
    except (TypeError, ValueError, RecursionError) as error:
        raise faults.of_request(error) from error
    if len(body) > wire.MAX_REQUEST_BYTES:
        raise RecordError("E471", "the prompt is too large", got=f"{len(body)} bytes", expected="at most 8 MB")
    return body
