"""The HTTP server: who may, from a request to its answer, and how the gateway is. Needs aiohttp.

A request becomes a `Ticket` and goes through `sage.llm.pool`; its answer passes as bytes. A client that goes away
cancels its handler, which withdraws the ticket or closes the endpoint's connection at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from sage.errors import EndpointError, PipelineError
from sage.gateway import requests
from sage.gateway.books import Books
from sage.gateway.config import Callers, GatewayConfig, KeyConfig, is_loopback, upstream_key
from sage.gateway.exchange import Exchange
from sage.gateway.faults import ClientGone, Refusal, of_endpoints
from sage.gateway.figures import Figures
from sage.gateway.requests import Asked
from sage.llm.balancer import Ticket
from sage.llm.client import ChatClient
from sage.llm.listening import HttpListener
from sage.llm.pool import EndpointPool
from sage.settings import Secret

PUBLIC = frozenset({"/live", "/health"})
ADMIN = frozenset({"/metrics"})
BODY_TIMEOUT_S = 30.0
"""For the whole body of a request to come."""
BETWEEN_CHUNKS_S = 60.0
STUCK_S = 15.0
"""Requests wait, and nothing has moved for so long: not healthy."""

NOBODY = KeyConfig("", "0" * 64, scopes=("infer", "admin"), max_requests=1 << 31)
"""Who calls a gateway without keys."""
CALLER = web.RequestKey("caller", KeyConfig)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One gateway in the running event loop. `start` it, and `close` it."""

    def __init__(self, config: GatewayConfig, usage_file: Path) -> None:
        self.url = ""
        self._config = config
        self._callers = Callers(config.key)
        self._usage_file = usage_file
        self._books: Books | None = None
        self._pools: dict[str, EndpointPool] = {}
        self._figures = Figures()
        self._busy: Counter[str] = Counter()
        self._moved_at = 0.0
        self._listener = HttpListener(self._application())

    async def start(self) -> None:
        """Listen. Raises as `sage.gateway.Gateway`."""
        self._books = Books(self._usage_file)
        for pool, models in await self._grouped():
            await pool.open()
            self._pools |= dict.fromkeys(models, pool)
        await self._listener.open(self._config.host, self._config.port)
        self.url = self._listener.url

    async def close(self) -> None:
        """Break every connection, write down what was used, let go of the port."""
        await self._listener.close()
        for pool in set(self._pools.values()):
            await pool.close()
        if self._books is not None:
            await self._books.close()

    async def _grouped(self) -> list[tuple[EndpointPool, tuple[str, ...]]]:
        """A pool for each list of models; endpoints that share a model have to share all."""
        groups: dict[frozenset[str], list[str]] = {}
        keys: dict[str, Secret] = {}
        for endpoint in self._config.endpoint:
            key = upstream_key(endpoint)
            if key is not None:
                keys[endpoint.url] = key
            models = endpoint.models
            if not models:
                async with ChatClient(endpoint.url, key) as client:
                    models = await client.check()
            if not models:
                raise PipelineError("E242", "the endpoint lists no model", at=endpoint.url, try_='models = ["..."]')
            groups.setdefault(frozenset(models), []).append(endpoint.url)
        shared = [
            model for model, count in Counter(model for models in groups for model in models).items() if count > 1
        ]
        if shared:
            expected = "endpoints that share a model to have the same list of models"
            raise PipelineError("E242", "endpoints share only some models", got=shared[0], expected=expected)
        return [(self._pool(urls, keys), tuple(sorted(models))) for models, urls in groups.items()]

    def _pool(self, urls: list[str], keys: dict[str, Secret]) -> EndpointPool:
        return EndpointPool(
            urls,
            keys,
            wait_timeout_s=self._config.max_wait_s,
            first_byte_timeout_s=self._config.timeout_s,
            between_chunks_timeout_s=BETWEEN_CHUNKS_S,
            total_timeout_s=self._config.timeout_s,
        )

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=requests.MAX_BODY_BYTES, middlewares=[self._guard])
        get, post = app.router.add_get, app.router.add_post
        post("/v1/chat/completions", self._priced(requests.chat))
        post("/v1/completions", self._priced(requests.completion))
        post("/v1/embeddings", self._priced(requests.embedding))
        get("/v1/models", self._list)
        get("/v1/models/{model:.+}", self._model)
        get("/live", self._live)
        get("/health", self._health)
        get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may, and what goes wrong in OpenAI's form."""
        try:
            self._check_origin(request)
            if request.raw_path not in PUBLIC:
                request[CALLER] = self._authorised(request)
            response = await handler(request)
        except Refusal as refusal:
            response = _refused(refusal)
        except ClientGone:
            response = web.Response(status=499)  # nobody will see it
        except web.HTTPException as error:
            response = _refused(Refusal(error.status, error.reason))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        resource = request.match_info.route.resource
        self._figures.answered(resource.canonical if resource else "", response.status)
        return response

    def _check_origin(self, request: web.Request) -> None:
        """A web page must not reach a gateway on loopback through its reader's browser."""
        if "Origin" in request.headers and request.method != "GET":
            raise Refusal(403, "requests from web pages are not accepted")
        if is_loopback(self._config.host):
            name = _hostname(request.headers.get("Host", ""))
            if name not in ("localhost", "127.0.0.1", "::1", self._config.host):
                raise Refusal(403, "this host name is not known here")

    def _authorised(self, request: web.Request) -> KeyConfig:
        if not self._callers:
            return NOBODY
        given = request.headers.getall("Authorization", [])
        caller = None
        if len(given) == 1 and given[0].startswith("Bearer "):
            caller = self._callers.of(given[0].removeprefix("Bearer ").encode("utf-8", "surrogateescape"))
        if caller is None:
            raise Refusal(401, "the API key is missing or wrong", code="invalid_api_key")
        needed = "admin" if request.path in ADMIN else "infer"
        if needed not in caller.scopes:
            raise Refusal(403, f"the key has not the scope {needed}", code="insufficient_scope")
        return caller

    def _priced(self, read: Callable[[bytes], Asked]) -> Handler:
        """A route that costs tokens."""

        async def handle(request: web.Request) -> web.StreamResponse:
            arrived_at = asyncio.get_running_loop().time()
            caller = request[CALLER]
            labels = requests.labels(request.headers)
            asked = read(await _body(request))
            pool = self._pools.get(asked.model)
            if pool is None:
                raise Refusal(404, f"the model {asked.model!r} does not exist", code="model_not_found", param="model")
            ticket = _ticket(asked, caller, labels.job)
            limit_s = min(self._config.max_wait_s, labels.deadline_s or math.inf)
            assert self._books is not None, "it was started"
            exchange = Exchange(request, asked, arrived_at, self._figures)
            with self._one_of(caller):
                try:
                    self._admit(pool, ticket, limit_s)
                    async with pool.relay(ticket, asked.path, asked.body, wait_timeout_s=limit_s) as answer:
                        self._moved_at = answer.granted_at
                        return await exchange.answer(answer)
                except EndpointError as error:
                    return await exchange.fail(of_endpoints(error, pool.wait_s(ticket)))
                finally:
                    self._moved_at = asyncio.get_running_loop().time()
                    self._books.add(exchange.used(caller.name, labels.job, labels.step))

        return handle

    def _admit(self, pool: EndpointPool, ticket: Ticket, limit_s: float) -> None:
        """Turn away at once what would only wait in vain."""
        wait_s = pool.wait_s(ticket)
        if wait_s > limit_s:
            message = f"it would wait for {wait_s:.1f} s, and may wait for {limit_s:g}"
            raise Refusal(429, message, code="would_wait_too_long", retry_after_s=wait_s - limit_s)

    @contextmanager
    def _one_of(self, caller: KeyConfig) -> Iterator[None]:
        if self._busy[caller.name] >= caller.max_requests:
            message = f"this key has {caller.max_requests} requests already"
            raise Refusal(429, message, code="too_many_requests", retry_after_s=1)
        self._busy[caller.name] += 1
        try:
            yield
        finally:
            self._busy[caller.name] -= 1

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return _json({"object": "list", "data": [_card(model) for model in self._pools]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        if model not in self._pools:
            raise Refusal(404, f"the model {model[:256]!r} does not exist", code="model_not_found", param="model")
        return _json(_card(model))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return _json({"status": "ok"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        """Whether requests get through, not whether somebody answers here."""
        troubles = self._troubles()
        return _json({"status": "failing" if troubles else "ok", "troubles": troubles}, 503 if troubles else 200)

    def _troubles(self) -> list[str]:
        assert self._books is not None, "it was started"
        troubles = []
        if any(not any(endpoint.healthy for endpoint in pool.snapshot()) for pool in self._pools.values()):
            troubles.append("a model has no endpoint that works")
        waiting = any(pool.waiting for pool in self._pools.values())
        if waiting and asyncio.get_running_loop().time() - self._moved_at > STUCK_S:
            troubles.append(f"requests wait, and none was sent or ended for {STUCK_S:g} s")
        if self._books.failure is not None:
            troubles.append("usage cannot be written down")
        return troubles

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        body = self._figures.text(self._pools).encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _ticket(asked: Asked, caller: KeyConfig, job: str) -> Ticket:
    """Turns are the tenant's; on a gateway without keys, the job's."""
    return Ticket(
        asked.prompt_tokens + asked.answer_tokens,
        asked.prompt_tokens,
        caller.tenant or caller.name or job,
        asked.prefix,
        weight=caller.weight,
        band=caller.priority,
        streamed=asked.stream,
    )


async def _body(request: web.Request) -> bytes:
    if request.content_length is not None and request.content_length > requests.MAX_BODY_BYTES:
        raise Refusal(413, f"the body is larger than {requests.MAX_BODY_BYTES} bytes")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, "a compressed body is not accepted")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_TIMEOUT_S:g} s") from None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _card(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "sage"}


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(
        status=refusal.status, body=refusal.body, content_type="application/json", headers=refusal.headers
    )
