"""A simulated endpoint on a thread of this process, for tests and benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sage.llm.hosted import AsyncServer, HostedServer
from sage.llm.simulated.faults import Fault
from sage.llm.simulated.profile import Profile, profile_named
from sage.llm.simulated.sequence import EngineSnapshot
from sage.settings import check_secret

if TYPE_CHECKING:
    from sage.llm.simulated.server import Server

T = TypeVar("T")


class SimulatedEndpoint(HostedServer):
    """A vLLM-compatible server without a GPU, from ``with`` to its end::

        with SimulatedEndpoint("tiny", faults=["500@0.1"]) as endpoint:
            ask(endpoint.url)

    `profile` is one of `sage.llm.simulated.PROFILES` by name, or a `Profile` of one's own. It listens on `host`, which
    needs an `api_key` unless it is loopback, and on `port` (0: any that is free). The same `seed` gives the same texts
    and the same dice. Faults are described in `sage.llm.simulated.faults`.

    Entering returns when it listens. Raises `PipelineError` (E247, E248) if it cannot, `MissingDependency` without
    aiohttp. The other methods may be called from any thread while it is open. Leaving breaks every connection.
    """

    def __init__(
        self,
        profile: str | Profile = "tiny",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        max_num_seqs: int | None = None,
        api_key: str | None = None,
        admin_token: str | None = None,
        faults: Sequence[str] = (),
        answer_tokens: int = 128,
    ) -> None:
        chosen = profile_named(profile) if isinstance(profile, str) else profile
        self.profile = chosen if max_num_seqs is None else replace(chosen, max_seqs=max_num_seqs)
        self._api_key = None if api_key is None else check_secret(api_key, "api_key")
        self._admin_token = None if admin_token is None else check_secret(admin_token, "admin_token")
        self._faults = tuple(Fault.parse(fault) for fault in faults)
        self._host, self._port, self._seed, self._answer_tokens = host, port, seed, answer_tokens
        self._server: Server | None = None
        super().__init__("sage-simulated-endpoint", "a simulated endpoint")

    def set_faults(self, *faults: str) -> None:
        """From now on these, and no others."""
        parsed = tuple(Fault.parse(fault) for fault in faults)
        self._call(lambda server: server.set_faults(parsed))

    def set_capacity(self, factor: float) -> None:
        """As if `factor` such GPUs shared the batch; 1 is the start. See `Engine.set_capacity`."""
        self._call(lambda server: server.set_capacity(factor))

    def restart(self, down_s: float = 0.0) -> None:
        """Reset every connection and forget everything; for `down_s` seconds reset every request too."""
        self._call(lambda server: server.restart(down_s))

    def snapshot(self) -> EngineSnapshot:
        """What is running and waiting now."""
        return self._call(lambda server: server.snapshot())

    def _call(self, function: Callable[[Server], T]) -> T:
        async def call() -> T:
            assert self._server is not None
            return function(self._server)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _make(self) -> AsyncServer:
        from sage.llm.simulated.server import Server, ServerOptions

        self._server = Server(
            ServerOptions(
                profile=self.profile,
                seed=self._seed,
                host=self._host,
                port=self._port,
                api_key=self._api_key,
                admin_token=self._admin_token,
                faults=self._faults,
                answer_tokens=self._answer_tokens,
            )
        )
        return self._server
