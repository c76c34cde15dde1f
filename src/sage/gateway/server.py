"""The HTTP server: who may, which routes there are, and how the gateway is. Needs aiohttp."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import msgspec
from aiohttp import web

from sage.errors import PipelineError, StorageError
from sage.gateway import requests
from sage.gateway.batch_routes import BatchRoutes
from sage.gateway.batch_runner import BatchRunner
from sage.gateway.batch_store import BatchStore
from sage.gateway.books import Books
from sage.gateway.callers import NOBODY, Caller, Callers
from sage.gateway.config import GatewayConfig, upstream_key
from sage.gateway.connection import MAX_HEAD_BYTES, Connection, expected, refused, too_large
from sage.gateway.faults import ClientGone, Refusal
from sage.gateway.figures import Figures
from sage.gateway.health import Health
from sage.gateway.serving import CALLER, Handler, Serving
from sage.llm.address import is_loopback
from sage.llm.client import ChatClient
from sage.llm.listening import HttpListener
from sage.llm.pool import EndpointPool
from sage.settings import Secret

PUBLIC = frozenset({"/live", "/health"})
ADMIN = frozenset({"/metrics"})
BETWEEN_CHUNKS_S = 60.0
_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<address>[0-9a-fA-F:.]+)\])(?::[0-9]{1,5})?")


class Server:
    """One gateway in the running event loop. `start` it, and `close` it."""

    def __init__(self, config: GatewayConfig, usage_file: Path) -> None:
        self.url = ""
        self._config = config
        self._callers = Callers(config)
        self._usage_file = usage_file
        self._books: Books | None = None
        self._pools: dict[str, EndpointPool] = {}
        self._figures = Figures()
        self._listener: HttpListener | None = None
        self._store: BatchStore | None = None
        self._runner: BatchRunner | None = None

    async def start(self) -> None:
        """Listen. Raises as `sage.gateway.Gateway`."""
        books = self._books = Books(self._usage_file)
        for pool, models in await self._grouped():
            await pool.open()
            self._pools |= dict.fromkeys(models, pool)
        self._health = Health(set(self._pools.values()), books)
        serving = Serving(self._config, self._pools, books, self._health, self._figures)
        app, drain_s = self._application(serving), self._config.drain_s
        self._listener = HttpListener(app, shutdown_timeout_s=drain_s, protocol=Connection)
        await self._listener.open(self._config.host, self._config.port)
        self.url = self._listener.url
        if self._runner is not None:
            self._runner.resume()

    async def close(self) -> None:
        """Take no more requests, wait `drain_s` for those in flight, write down what was used."""
        if self._listener is not None:
            await self._listener.close()
        if self._runner is not None:
            await self._runner.close()
        if self._store is not None:
            self._store.close()
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
            if strange := next((model for model in models if not model.isprintable()), None):
                expected = "a name that can be printed"
                raise PipelineError(
                    "E242", "a model has a strange name", at=endpoint.url, got=strange, expected=expected
                )
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

    def _application(self, serving: Serving) -> web.Application:
        app = web.Application(client_max_size=requests.MAX_BODY_BYTES, middlewares=[self._guard])
        for method, path, handler in (
            ("POST", "/v1/chat/completions", serving.handler(requests.chat)),
            ("POST", "/v1/completions", serving.handler(requests.completion)),
            ("POST", "/v1/embeddings", serving.handler(requests.embedding)),
            *self._batch_routes(serving).routes(),
            ("GET", "/v1/models", self._list),
            ("GET", "/v1/models/{model:.+}", self._model),
            ("GET", "/live", self._live),
            ("GET", "/health", self._healthy),
            ("GET", "/metrics", self._metrics),
        ):
            app.router.add_route(method, path, handler, expect_handler=expected)
        return app

    def _batch_routes(self, serving: Serving) -> BatchRoutes:
        """Without a folder for them there are none, and everything else works."""
        most_bytes, why = self._config.batch_bytes, "batch_bytes is 0"
        if most_bytes:
            try:
                self._store = BatchStore(self._usage_file.parent / "batches")
            except StorageError as error:
                why = str(error.got)
        if self._store is not None:
            longest = self._config.longest_answer_tokens
            self._runner = BatchRunner(self._store, serving.whole, self._callers.named, longest)
        return BatchRoutes(self._store, self._runner, most_bytes, why)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may, and what goes wrong in OpenAI's form."""
        try:
            if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEAD_BYTES:
                raise too_large()
            self._check_origin(request)
            if request.raw_path not in PUBLIC:
                request[CALLER] = self._authorised(request)
            response = await handler(request)
        except Refusal as refusal:
            response = refused(refusal)
        except ClientGone:
            if request.transport is not None:
                request.transport.abort()  # if only because it reads nothing
            response = web.Response(status=499)  # nobody will see it
        except web.HTTPException as error:
            response = refused(Refusal(error.status, error.reason))
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

    def _authorised(self, request: web.Request) -> Caller:
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

    async def _list(self, request: web.Request) -> web.StreamResponse:
        may_use = request[CALLER].may_use
        return _json({"object": "list", "data": [_card(model) for model in self._pools if may_use(model)]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        if model not in self._pools or not request[CALLER].may_use(model):
            raise requests.unknown_model(model[:256])
        return _json(_card(model))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return _json({"status": "ok"})

    async def _healthy(self, request: web.Request) -> web.StreamResponse:
        """Whether requests get through, not whether somebody answers here."""
        troubles = self._health.troubles(asyncio.get_running_loop().time())
        return _json({"status": "failing" if troubles else "ok", "troubles": troubles}, 503 if troubles else 200)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        body = self._figures.text(self._pools).encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _hostname(host: str) -> str | None:
    found = _HOST.fullmatch(host)
    return found and (found["name"] or found["address"])


def _card(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "sage"}


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")
