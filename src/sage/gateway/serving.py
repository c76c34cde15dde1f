"""Requests that cost tokens, from their body to the end of their answer. Needs aiohttp.

A request becomes a `Ticket` and goes through `sage.llm.pool`; its answer passes as bytes. A client that goes away
cancels its handler, which withdraws the ticket or closes the endpoint's connection at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import HttpVersion11, web

from sage.clock import SYSTEM_CLOCK
from sage.errors import EndpointError, RecordError
from sage.gateway import requests
from sage.gateway.allowance import Allowances, Moment, Need
from sage.gateway.books import Books
from sage.gateway.cache import AnswerCache, Kept, Key, key_of
from sage.gateway.callers import Caller
from sage.gateway.config import GatewayConfig
from sage.gateway.exchange import Exchange, read_whole
from sage.gateway.faults import Refusal, of_endpoints
from sage.gateway.figures import Figures
from sage.gateway.health import Health
from sage.gateway.ledger import Used
from sage.gateway.relay import usage_of
from sage.gateway.requests import BYTES_PER_TOKEN, Asked, Labels
from sage.llm.pool import EndpointPool
from sage.llm.pooled import loop_time
from sage.llm.turns import Ticket

BODY_TIMEOUT_S = 30.0
"""For the whole body of a request to come."""
PRUDENCE = 0.6
"""Of the time that a request may wait: endpoints free their places in bursts, and a wait foretold is an average."""
CALLER = web.RequestKey("caller", Caller)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reader = Callable[[bytes, int | None], Asked]


class Serving:
    """The handlers of what costs tokens, over `pools` by model."""

    def __init__(
        self,
        config: GatewayConfig,
        pools: Mapping[str, EndpointPool],
        books: Books,
        health: Health,
        figures: Figures,
    ) -> None:
        self._config = config
        self._pools = pools
        self._books = books
        self._health = health
        self._figures = figures
        self._cache = AnswerCache(config.cache_bytes, config.cache_ttl_s)
        wall_s = SYSTEM_CLOCK.wall()
        self._allowances = Allowances(config.key, config.tenant, books.spent(wall_s), wall_s)

    def handler(self, read: Reader) -> Handler:
        """Of the route whose bodies `read` understands."""

        async def handle(request: web.Request) -> web.StreamResponse:
            arrived_at = loop_time()
            caller = request[CALLER]
            labels = requests.labels(request.headers)
            asked = read(await read_body(request), self._config.longest_answer_tokens if caller.budgeted else None)
            pool = self._pools.get(asked.model)
            if pool is None or not caller.may_use(asked.model):
                raise requests.unknown_model(asked.model)
            if asked.stream and request.version < HttpVersion11:
                raise Refusal(400, "a stream needs HTTP/1.1", param="stream")
            exchange = Exchange(request, asked, arrived_at, self._figures)
            return await self._accounted(exchange, caller, labels, pool)

        return handle

    async def _accounted(
        self, exchange: Exchange, caller: Caller, labels: Labels, pool: EndpointPool
    ) -> web.StreamResponse:
        """Reserve what it may use, and settle what it did."""
        kept, key = self._looked_up(exchange, caller, labels)
        asked = exchange.asked
        need = Need(0.0, 0) if kept else Need(asked.prompt_tokens + asked.answer_tokens, asked.most_tokens)
        reservation = self._allowances.reserve(caller.name, need, _moment())
        try:
            if kept is not None:
                return await exchange.replay(kept)
            return await self._sent(exchange, self._ticket(asked, caller, labels.job), labels, pool)
        finally:
            used = exchange.used(caller.name, labels.job, labels.step)
            reservation.settle(used.tokens, _moment())
            self._health.moved(loop_time())
            self._books.add(used)
            if key is not None and (answer := exchange.kept()) is not None:
                self._cache.put(key, answer, loop_time())

    async def whole(self, asked: Asked, caller: Caller, labels: Labels, band: int, limit_s: float) -> tuple[int, bytes]:
        """Answer what nobody waits for at a connection: status and body. Raises `Refusal`, `EndpointError`
        and `RecordError`."""
        pool = self._pools.get(asked.model)
        if pool is None or not caller.may_use(asked.model):
            raise requests.unknown_model(asked.model)
        need = Need(asked.prompt_tokens + asked.answer_tokens, asked.most_tokens)
        reservation = self._allowances.reserve(caller.name, need, _moment())
        used = Used(caller.name, labels.job, labels.step, asked.model, failed=1)
        ticket = self._ticket(asked, caller, labels.job)
        ticket.band = band
        try:
            async with pool.relay(ticket, asked.path, asked.body, wait_timeout_s=limit_s) as answer:
                self._health.moved(answer.granted_at)
                body = await read_whole(answer)
                if answer.status == 200:
                    used = used._replace(failed=0, estimated_tokens=asked.estimate(len(body) // BYTES_PER_TOKEN))
                    if (usage := usage_of(body)) is not None:
                        answer.used(usage.prompt_tokens)
                        answer.came(usage.completion_tokens)
                        self._figures.used(asked.model, usage.prompt_tokens, usage.completion_tokens)
                        used = used._replace(
                            prompt_tokens=usage.prompt_tokens,
                            completion_tokens=usage.completion_tokens,
                            estimated_tokens=0,
                        )
                return answer.status, body
        finally:
            reservation.settle(used.tokens, _moment())
            self._health.moved(loop_time())
            self._books.add(used)

    def _looked_up(self, exchange: Exchange, caller: Caller, labels: Labels) -> tuple[Kept | None, Key | None]:
        """The answer that was given before, and under what a new one is to be kept."""
        if not labels.reuse:
            return None, None
        key = key_of(exchange.asked, caller.tenant) if self._config.cache_bytes else None
        kept = self._cache.get(key, loop_time()) if key is not None else None
        said = "HIT" if kept is not None else "MISS" if key is not None else "SKIP"
        exchange.headers["X-SAGE-Cache"] = said
        self._figures.looked_up(said)
        if kept is None and key is not None:
            exchange.copy = self._cache.copy()
        return kept, key

    async def _sent(self, exchange: Exchange, ticket: Ticket, labels: Labels, pool: EndpointPool) -> web.StreamResponse:
        limit_s = min(self._config.max_wait_s, labels.deadline_s or math.inf)
        try:
            _admit(pool, ticket, limit_s)
            exchange.admitted()
            async with pool.relay(ticket, exchange.asked.path, exchange.asked.body, wait_timeout_s=limit_s) as answer:
                self._health.moved(answer.granted_at)
                return await exchange.answer(answer)
        except (EndpointError, RecordError) as error:
            return await exchange.fail(of_endpoints(error, pool.wait_s(ticket)))

    def _ticket(self, asked: Asked, caller: Caller, job: str) -> Ticket:
        """Tenants take turns, and the jobs of each; on a gateway without keys, the jobs."""
        return Ticket(
            asked.prompt_tokens + asked.answer_tokens,
            asked.prompt_tokens,
            job,
            caller.tenant,
            asked.prefix if self._config.prefix_affinity else "",
            weight=caller.weight,
            band=caller.priority,
            streamed=asked.stream,
        )


def _admit(pool: EndpointPool, ticket: Ticket, limit_s: float) -> None:
    """Turn away at once what would only wait in vain: 503 while no endpoint takes anything, 429 behind a queue."""
    wait_s, prudent_s = pool.wait_s(ticket), limit_s * PRUDENCE
    if wait_s <= prudent_s:
        return
    message = f"it would wait for {wait_s:.1f} s, and may wait for {limit_s:g}"
    if all(endpoint.parked_for_s > 0 for endpoint in pool.snapshot()):
        raise Refusal(503, f"no endpoint takes requests: {message}", code="no_room", retry_after_s=wait_s - prudent_s)
    raise Refusal(429, message, code="would_wait_too_long", retry_after_s=wait_s - prudent_s)


async def read_body(request: web.Request) -> bytes:
    if request.content_length is not None and request.content_length > requests.MAX_BODY_BYTES:
        raise Refusal(413, f"the body is larger than {requests.MAX_BODY_BYTES} bytes")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, "a compressed body is not accepted")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_TIMEOUT_S:g} s") from None


def _moment() -> Moment:
    return Moment(loop_time(), SYSTEM_CLOCK.wall())
