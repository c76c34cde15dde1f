"""Pools that all steps and jobs of this process share: one for each set of endpoints, on an event loop of its own.

Whoever names the same URLs with the same key gets the same pool. It is opened by the first and closed with the last.
Its requests are those of jobs: among these an endpoint's tokens are shared equally, by `sage.llm.balancer`.
"""

from __future__ import annotations

import asyncio
import math
import string
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from sage.flow.admission import WATCH, EndpointFigures
from sage.flow.operator import OperatorContext
from sage.llm.pool import EndpointPool
from sage.llm.wire import Completion, Message
from sage.settings import Secret

T = TypeVar("T")
MAX_LABEL = 128
"""Characters of a label that the gateway takes."""
_PLAIN = string.punctuation.replace("%", "")
"""Beside letters and digits: what may stand in a label as it is. A step may have the name of a class in any script."""


@dataclass(frozen=True, slots=True)
class Address:
    """What makes two steps share a pool."""

    urls: tuple[str, ...]
    key: Secret | None = None
    total_timeout_s: float = 300.0
    is_gateway: bool = False
    """The one URL is SAGE's gateway, which is told whose request it is."""


class SharedPool:
    """A pool and the thread that it lives on. Used from any thread."""

    def __init__(self, address: Address) -> None:
        gateways, timeout_s = address.is_gateway, address.total_timeout_s
        self.pool = EndpointPool(address.urls, address.key, total_timeout_s=timeout_s, gateways=gateways)
        self.users: list[PoolUser] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sage-endpoints", daemon=True)
        self._thread.start()
        self._opened = self.submit(self.pool.open())

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def opened(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._opened))  # it is not only the caller's

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    async def close(self) -> None:
        """To be called once, when nobody uses it any more."""
        await asyncio.shield(asyncio.wrap_future(self.submit(self.pool.close())))
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_cancel_others())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class PoolUser:
    """One operator at a shared pool, made by `join`; its calls come from one event loop. An `Admission`."""

    def __init__(self, shared: SharedPool, address: Address, context: OperatorContext | None) -> None:
        self._shared = shared
        self._address = address
        self.job = context.run_id if context is not None else ""
        self._headers: dict[str, str] | None = None
        if address.is_gateway and context is not None:
            step = quote(context.step, safe=_PLAIN)[:MAX_LABEL]
            self._headers = {"X-SAGE-Job": f"{context.pipeline}.{self.job}", "X-SAGE-Step": step}

    async def complete(self, messages: Sequence[Message], **options: Any) -> Completion:
        """As `EndpointPool.complete`."""
        pool = self._shared.pool
        asked = pool.complete(messages, job=self.job, on_turn=_teller(), headers=self._headers, **options)
        return await self._done(asked)

    async def check(self, model: str | None) -> tuple[str, ...]:
        """As `EndpointPool.check`."""
        return await self._done(self._shared.pool.check(model))

    def figures(self) -> tuple[EndpointFigures, ...]:
        pool = self._shared.pool
        return tuple(
            EndpointFigures(
                name=f"gateway {each.name}" if self._address.is_gateway else each.name,
                limit=each.limit.limit,
                in_flight=each.limit.in_flight,
                waiting=pool.waiting,
                tokens_per_s=each.tokens_per_s,
                parked=each.parks,
                opens_in_s=each.parked_for_s if each.parked_for_s < math.inf else None,
                trouble=str(pool.trouble(each.name) or "") if each.parked_for_s else "",
            )
            for each in pool.snapshot()
        )

    def hurry(self) -> None:
        with suppress(RuntimeError):  # it was closed in the meantime
            self._shared.call(self._shared.pool.hurry, self.job)

    async def close(self) -> None:
        """May be called once; calls in flight must have ended or been cancelled."""
        with _joining:
            users = self._shared.users
            users.remove(self)
            if not users:
                del _pools[self._address]
        if not users:
            await self._shared.close()
        elif all(user.job != self.job for user in users):
            self._shared.call(self._shared.pool.forget, self.job)

    async def _done(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._shared.submit(work))


_pools: dict[Address, SharedPool] = {}
_joining = threading.Lock()


async def join(address: Address, context: OperatorContext | None) -> PoolUser:
    """Use the pool of `address`; connects to nothing yet. Raises `MissingDependency` where aiohttp is not installed."""
    with _joining:
        shared = _pools.get(address)
        if shared is None:
            shared = _pools[address] = SharedPool(address)
        user = PoolUser(shared, address, context)
        shared.users.append(user)
    try:
        await shared.opened()
    except BaseException:
        await user.close()
        raise
    return user


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _teller() -> Callable[[bool], None]:
    """Tells the watch of the running call, on its own event loop, whether it goes or waits."""
    watch, loop = WATCH.get(), asyncio.get_running_loop()

    def tell(goes: bool) -> None:
        if watch is not None:
            with suppress(RuntimeError):  # that loop has ended, and the call with it
                loop.call_soon_threadsafe(watch.goes if goes else watch.waits)

    return tell
