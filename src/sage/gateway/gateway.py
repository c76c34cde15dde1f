"""The gateway on a thread of this process."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sage.errors import MissingDependency
from sage.gateway.config import GatewayConfig
from sage.llm.hosted import AsyncServer, HostedServer


class Gateway(HostedServer):
    """An OpenAI-compatible server in front of endpoints, from ``with`` to its end::

        with Gateway(GatewayConfig(endpoint=(EndpointConfig("http://127.0.0.1:8001"),), port=0)) as gateway:
            ask(gateway.url)

    Usage is written to `usage_file` (SQLite; made if it is not there). Leaving waits for
    requests in flight, at most `drain_s`, and breaks the others.

    Entering returns when it listens. Raises `PipelineError` (E242, E244, E248), `EndpointError` where an endpoint that
    has to be asked for its models does not answer, `StorageError` E670, `MissingDependency` without aiohttp.
    """

    def __init__(self, config: GatewayConfig, usage_file: Path) -> None:
        config.check("the gateway's configuration")
        self.config = config
        self.usage_file = usage_file
        super().__init__("sage-gateway", "the gateway")

    def _make(self) -> AsyncServer:
        try:
            import httptools  # noqa: F401 -- at the start, and not with the first request
        except ImportError as error:
            raise MissingDependency("httptools", "gateway", "the gateway") from error
        from sage.gateway.server import Server

        return Server(self.config, self.usage_file)

    def _run_loop(self, serve: Coroutine[Any, Any, None]) -> None:
        try:
            import uvloop
        except ImportError:
            super()._run_loop(serve)
        else:
            uvloop.run(serve)
