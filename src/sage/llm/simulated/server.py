"""The HTTP server: OpenAI's routes as vLLM serves them, over the engine in real time. Needs aiohttp."""

from __future__ import annotations

import asyncio
import hmac
import json
import struct
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sage.errors import PipelineError
from sage.llm.address import is_loopback
from sage.llm.listening import HttpListener
from sage.llm.simulated import wire
from sage.llm.simulated.faults import Fault, Faults
from sage.llm.simulated.generation import Generator
from sage.llm.simulated.misbehaving import reset
from sage.llm.simulated.profile import Profile
from sage.llm.simulated.realtime import Driver
from sage.llm.simulated.sequence import EngineSnapshot
from sage.llm.simulated.serving import Handler, Serving
from sage.llm.simulated.text import tokenized
from sage.llm.simulated.wire import Refusal
from sage.settings import Secret
from sage.version import __version__

OPEN_PATHS = ("/health", "/ping", "/version", "/metrics")
"""What is answered without the key, where one is set: as vLLM does it."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server is started with."""

    profile: Profile
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    """0: any that is free."""
    api_key: Secret | None = None
    admin_token: Secret | None = None
    """Without one there are no admin routes."""
    faults: tuple[Fault, ...] = ()
    answer_tokens: int = 128
    """Median length of an answer that nothing cuts off."""


class Server:
    """One simulated endpoint in the running event loop. `start` it, and `close` it."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.url = ""
        self._profile = options.profile
        self._generator = Generator(options.profile, options.seed, options.answer_tokens)
        self._serving = Serving(self._generator, self._new_driver(), Faults(options.faults, options.seed))
        self._capacity = 1.0
        self._down_until = 0.0
        self._in_flight: set[asyncio.Transport] = set()
        self._listener = HttpListener(self._application())

    async def start(self) -> None:
        """Listen. Raises `PipelineError`: E247 without a key on an address that is not loopback, E248 if the port is
        taken or the address is not ours."""
        options = self.options
        if options.api_key is None and not is_loopback(options.host):
            raise PipelineError("E247", "a server on this address needs a key", at=options.host, try_="127.0.0.1")
        await self._listener.open(options.host, options.port)
        self.url = self._listener.url

    async def close(self) -> None:
        """Break every connection, and let go of the port."""
        self._drop_everything()
        await self._listener.close()

    def set_faults(self, faults: tuple[Fault, ...]) -> None:
        """In place of those before."""
        self._serving.faults = Faults(faults, self.options.seed)

    def set_capacity(self, factor: float) -> None:
        """See `Engine.set_capacity`."""
        self._serving.driver.set_capacity(factor)
        self._capacity = factor

    def restart(self, down_s: float = 0.0) -> None:
        """As a server that is killed: every connection is reset, everything forgotten; for `down_s` seconds every
        request is reset too."""
        self._drop_everything()
        self._serving.driver = self._new_driver()
        self._serving.driver.set_capacity(self._capacity)
        self._down_until = asyncio.get_running_loop().time() + down_s

    def snapshot(self) -> EngineSnapshot:
        return self._serving.driver.snapshot()

    def _drop_everything(self) -> None:
        self._serving.driver.close()
        for transport in self._in_flight:
            transport.abort()

    def _new_driver(self) -> Driver:
        return Driver(self._profile, self.options.seed, asyncio.get_running_loop())

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=wire.MAX_BODY_BYTES, middlewares=[self._guard])
        app.on_response_prepare.append(self._sign)
        get, post = app.router.add_get, app.router.add_post
        serving = self._serving
        post("/v1/chat/completions", serving.handler(serving.chat))
        post("/v1/completions", serving.handler(serving.completion))
        post("/v1/embeddings", serving.handler(serving.embedding))
        post("/tokenize", self._tokenize)
        get("/v1/models", self._models)
        get("/v1/models/{model:.+}", self._model)
        get("/health", self._health)
        get("/ping", self._health)
        get("/version", self._version)
        get("/metrics", self._metrics)
        if self.options.admin_token is not None:
            get("/admin", self._state)
            post("/admin/faults", self._change_faults)
            post("/admin/capacity", self._change_capacity)
            post("/admin/restart", self._change_restart)
        return app

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-SAGE-Simulated"] = self._profile.name
        response.headers["Server"] = f"sage-simulated/{__version__}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may, and what goes wrong in OpenAI's form."""
        transport = request.transport
        assert transport is not None, "it has just come"
        self._in_flight.add(transport)
        try:
            if asyncio.get_running_loop().time() < self._down_until and not _is_admin(request):
                return reset(request)
            self._authorise(request)
            return await handler(request)
        except Refusal as refusal:
            return _refused(refusal)
        except RecursionError:
            return _refused(Refusal(400, "the body is nested too deep"))
        except web.HTTPException as error:
            body = wire.error_body(error.reason, "invalid_request_error")
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)
        except ConnectionError:
            return web.Response(status=499)  # the client went away: nobody will see it
        finally:
            self._in_flight.discard(transport)

    def _authorise(self, request: web.Request) -> None:
        needed = self.options.api_key
        if _is_admin(request):
            needed = self.options.admin_token or needed
        elif request.path in OPEN_PATHS:
            return
        if needed is None:
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), needed.reveal().encode()):
            raise Refusal(401, "the API key is missing or wrong", kind="authentication_error", code="invalid_api_key")

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        asked = wire.decode(wire.TokenizeRequest, await request.read())
        self._generator.check_model(asked.model)
        parts = [asked.prompt or ""]
        if asked.messages:
            parts = wire.ChatRequest(messages=asked.messages).prompt()
        ids = [token for (token,) in struct.iter_unpack("<I", tokenized(parts))]
        return _json({"count": len(ids), "max_model_len": self._profile.max_model_len, "tokens": ids})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return _json({"object": "list", "data": [self._model_card()]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._generator.check_model(request.match_info["model"])
        return _json(self._model_card())

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self._profile.model, "object": "model", "created": 0, "owned_by": "sage-simulated",
            "root": self._profile.model, "parent": None, "max_model_len": self._profile.max_model_len,
        }  # fmt: skip

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return _json({"version": f"{__version__}+simulated", "simulated": True, "profile": self._profile.name})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        text = self._serving.driver.figures.text(self._serving.driver.snapshot())
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _state(self, request: web.Request) -> web.StreamResponse:
        snapshot = self._serving.driver.snapshot()
        return _json({
            "profile": self._profile.name, "capacity": self._capacity, "faults": self._serving.faults.texts(),
            "running": snapshot.running, "waiting": snapshot.waiting, "kv_usage": snapshot.kv_usage,
        })  # fmt: skip

    async def _change_faults(self, request: web.Request) -> web.StreamResponse:
        asked = wire.decode(wire.FaultsChange, await request.read())
        try:
            self.set_faults(tuple(Fault.parse(text) for text in asked.faults))
        except PipelineError as error:
            raise Refusal(400, str(error), param="faults") from error
        return await self._state(request)

    async def _change_capacity(self, request: web.Request) -> web.StreamResponse:
        self.set_capacity(wire.decode(wire.CapacityChange, await request.read()).factor)
        return await self._state(request)

    async def _change_restart(self, request: web.Request) -> web.StreamResponse:
        asked = wire.decode(wire.Restart, await request.read())
        assert request.transport is not None
        self._in_flight.discard(request.transport)  # who asks for it gets an answer
        self.restart(asked.down_s)
        return await self._state(request)


def _is_admin(request: web.Request) -> bool:
    return request.path == "/admin" or request.path.startswith("/admin/")


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, body=refusal.body, content_type="application/json")


def _json(document: Any) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json")
