"""Several endpoints for one model, as one: the I/O around `sage.llm.balancer`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sage.errors import EndpointBusy, EndpointError, EndpointRefused, PipelineError, RecordError
from sage.llm.balancer import Balancer, EndpointSnapshot, Grant, Outcome
from sage.llm.client import ChatClient
from sage.llm.pooled import CHARACTERS_PER_TOKEN, PooledAnswer, RelayedAnswer, loop_time
from sage.llm.turns import MOST_WAITING, Ticket
from sage.llm.turnstile import Turnstile
from sage.llm.wire import Completion, Message
from sage.scheduling.limiter import FIRST_LIMIT, MOST
from sage.settings import Secret

USUAL_ANSWER_TOKENS = 256
SCRAPE_S, SCRAPE_AGAIN_S = 1.0, 30.0


class Begins(Protocol):
    """An answer that is there once its first part is."""

    async def begin(self) -> None: ...


OnTurn = Callable[[bool], None]
R = TypeVar("R")
B = TypeVar("B", bound=Begins)


class EndpointPool:
    """Asks whichever of its endpoints is best, and never more at once than each does well; opened in one event loop.

    How many requests an endpoint gets is found by feedback (`sage.scheduling.limiter`), beginning at `start` and never
    above `most`. What cannot be sent yet waits here: by job, by the tokens that the job was served, in order. A request
    that is cancelled while it waits is never sent; one that is cancelled in flight frees its place at once.
    `wait_timeout_s` limits the wait; the other timeouts are those of `ChatClient`, counted from when it is sent.

    An endpoint that asks to wait (429, 503, ``Retry-After``) or accepts no connection is left alone for a while, and
    the request goes elsewhere or waits: no attempt of the caller's is burnt. After another failure before the first
    text a request is sent to an endpoint that has not failed it yet; after the first text, or when none is left, the
    failure is the caller's. vLLM's ``/metrics`` are used where they are found.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: Secret | str | Mapping[str, Secret] | None = None,
        model: str | None = None,
        *,
        start: int = FIRST_LIMIT,
        most: int = MOST,
        most_waiting: int = MOST_WAITING,
        wait_timeout_s: float = 600.0,
        gateways: bool = False,
        **timeouts: float,
    ) -> None:
        """The `urls` may be `gateways` of SAGE's: these find the limits of their endpoints, and let requests wait."""
        if not urls or len(set(urls)) < len(urls):
            raise PipelineError("E242", "a pool needs endpoints, each once", got=list(urls), expected="URLs")
        if not 0 < wait_timeout_s < math.inf or not start >= 1 or not most >= 1:
            got = {"wait_timeout_s": wait_timeout_s, "start": start, "most": most}
            raise PipelineError("E242", "a limit of a pool cannot be this", got=got, expected="more than 0, and finite")
        keys = key if isinstance(key, Mapping) else dict.fromkeys(urls, key)
        clients = [ChatClient(url, keys.get(url), model, **timeouts) for url in urls]
        self._clients = {client.url: client for client in clients}
        self._balancer = Balancer(
            list(self._clients), start=start, most=most, most_waiting=most_waiting, queue=gateways
        )
        self._wait_timeout_s = wait_timeout_s
        self._turnstile = Turnstile(self._balancer, repr(self))
        self._troubles: dict[str, EndpointError] = {}
        """Why an endpoint was left alone last."""
        self._clock = time.monotonic
        self._scrapes: list[asyncio.Task[None]] = []
        """One for each endpoint while the pool is open."""

    def __repr__(self) -> str:
        return f"EndpointPool({list(self._clients)!r})"

    async def open(self) -> None:
        """Get ready; asks nothing yet but for ``/metrics``. Raises `MissingDependency` where aiohttp is missing."""
        self._clock = asyncio.get_running_loop().time
        for client in self._clients.values():
            await client.open()
        self._scrapes = [asyncio.create_task(self._scrape(client)) for client in self._clients.values()]

    async def close(self) -> None:
        """Close every connection; calls in flight fail, and so do those that wait. May be called twice."""
        scrapes, self._scrapes = self._scrapes, []
        for scrape in scrapes:
            scrape.cancel()
        await asyncio.gather(*scrapes, return_exceptions=True)
        self._turnstile.close()
        for client in self._clients.values():
            await client.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def check(self, model: str | None = None) -> tuple[str, ...]:
        """The models that the endpoints list; as `ChatClient.check`, for each of them. Those that cannot be reached are
        no error as long as one can."""
        listed: list[str] = []
        away: list[EndpointError] = []
        for client in self._clients.values():
            try:
                listed += await client.check(model)
            except EndpointRefused:
                raise
            except EndpointError as error:
                away.append(error)
        if len(away) == len(self._clients):
            raise away[0]
        return tuple(dict.fromkeys(listed))

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        job: str = "",
        prefix: str = "",
        on_turn: OnTurn | None = None,
        **options: Any,
    ) -> Completion:
        """Ask; `options` and errors as of `ChatClient.complete`, and `EndpointBusy` E723 (too many wait) and E724 (no
        endpoint had room within `wait_timeout_s`). Requests with the same `prefix` go to the same endpoint where that
        costs nothing. `on_turn` is called with True when it is sent, and with False when it has to wait once more."""
        async with self.stream(messages, job=job, prefix=prefix, on_turn=on_turn, **options) as answer:
            async for _ in answer:
                pass
        return answer.completion

    @asynccontextmanager
    async def stream(
        self,
        messages: Sequence[Message],
        *,
        job: str = "",
        prefix: str = "",
        on_turn: OnTurn | None = None,
        **options: Any,
    ) -> AsyncIterator[PooledAnswer]:
        """Ask, and get the text as it comes; used like `ChatClient.stream`. Leaving the block early frees its place."""
        characters = sum(len(str(message.get("content", ""))) for message in messages)
        prompt_tokens = characters / CHARACTERS_PER_TOKEN
        ticket = Ticket(
            prompt_tokens + (options.get("max_tokens") or USUAL_ANSWER_TOKENS), prompt_tokens, job, prefix=prefix
        )
        async with self._asked(
            ticket, lambda client: client.stream(messages, **options), PooledAnswer, self._wait_timeout_s, on_turn
        ) as answer:
            yield answer

    @asynccontextmanager
    async def relay(
        self, ticket: Ticket, path: str, body: bytes, *, wait_timeout_s: float
    ) -> AsyncIterator[RelayedAnswer]:
        """Send `body` as it is, and get the answer unread: `ChatClient.relay`, where `ticket` finds room within
        `wait_timeout_s`. Errors as of `complete`, but for those that blame the prompt."""
        async with self._asked(
            ticket, lambda client: client.relay(path, body), RelayedAnswer, wait_timeout_s
        ) as answer:
            yield answer

    def wait_s(self, ticket: Ticket) -> float:
        """How long `ticket` would wait now, as well as one can know."""
        return self._balancer.wait_s(ticket, loop_time())

    @asynccontextmanager
    async def _asked(
        self,
        ticket: Ticket,
        ask: Callable[[ChatClient], AbstractAsyncContextManager[R]],
        wrap: Callable[[R, Grant, Balancer], B],
        wait_timeout_s: float,
        on_turn: OnTurn | None = None,
    ) -> AsyncIterator[B]:
        """Wait, ask, and ask another endpoint while an answer has not begun."""
        until = loop_time() + wait_timeout_s
        sent = began = False
        while True:
            if on_turn is not None and sent:
                on_turn(False)
            if not self._scrapes:
                raise RuntimeError(f"{self!r} is not open")
            grant = await self._turnstile.turn(ticket, until, first=sent)
            sent = True
            if on_turn is not None:
                on_turn(True)
            try:
                with self._accounted(grant):
                    async with ask(self._clients[grant.endpoint]) as raw:
                        answer = wrap(raw, grant, self._balancer)
                        await answer.begin()
                        began = True
                        yield answer
                return
            except EndpointRefused:
                raise
            except EndpointBusy:
                if began:
                    raise
            except EndpointError:
                ticket.avoid |= {grant.endpoint}
                if began or len(ticket.avoid) == len(self._clients):
                    raise

    def hurry(self, job: str) -> None:
        """`job` is to stop: its requests that can only go when an endpoint comes back raise `EndpointBusy` E724."""
        self._turnstile.hurry(job)

    def forget(self, job: str) -> None:
        """`job` has ended."""
        self._turnstile.forget(job)

    def trouble(self, endpoint: str) -> EndpointError | None:
        """The last error of an endpoint that did nothing well since."""
        return self._troubles.get(endpoint)

    def snapshot(self) -> tuple[EndpointSnapshot, ...]:
        """The endpoints at this moment; from any thread."""
        return self._balancer.snapshot(self._clock())

    @property
    def waiting(self) -> int:
        """Requests that have not been sent yet."""
        return self._balancer.waiting

    @contextmanager
    def _accounted(self, grant: Grant) -> Iterator[None]:
        """End the grant, as what happens inside says."""
        outcome, retry_after_s = Outcome.UNKNOWN, None
        try:
            yield
            outcome = Outcome.DONE
            self._troubles.pop(grant.endpoint, None)
        except EndpointBusy as busy:
            outcome = Outcome.AWAY if busy.code == "E722" else Outcome.PARKED
            retry_after_s = busy.retry_after_s
            self._troubles[grant.endpoint] = busy
            raise
        except RecordError:
            outcome = Outcome.DONE  # the endpoint is well, and said so
            raise
        except EndpointRefused:
            raise
        except EndpointError as error:
            outcome = Outcome.FAILED
            self._troubles[grant.endpoint] = error
            raise
        finally:
            self._turnstile.end(grant, outcome, retry_after_s)

    async def _scrape(self, client: ChatClient) -> None:
        """Read the endpoint's own figures every second; less often where there are none."""
        while True:
            found = await client.load()
            if found is not None:
                self._balancer.report_load(client.url, loop_time(), *found)
                self._turnstile.dispatch()
            await asyncio.sleep(SCRAPE_S if found is not None else SCRAPE_AGAIN_S)
