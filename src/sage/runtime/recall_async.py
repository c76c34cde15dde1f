"""Durable steps on the event loop: nothing here may block it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sage.record import Batch
from sage.runtime.durable import Results
from sage.runtime.recall import TURN_S

Call = Callable[[Batch], Awaitable[Any]]


async def journalled(results: Results, batch: Batch, call: Call, *, several: bool) -> Any:
    """What `call` gives for `batch`, or gave in an earlier run; safe when this returns. With `several`, `call` takes a
    list of records and gives one of results; only those that have none are given to it."""
    rids = list(batch.rids)
    keys = [results.key(rid, record) for rid, record in zip(rids, batch.records, strict=True)]
    found = [results.find(key) for key in keys]
    missing = [index for index, one in enumerate(found) if one is None]
    results.check_together([keys[index] for index in missing])
    if missing:
        slots: list[int] = []
        try:
            for index in missing:
                slots.append(await _entered(results, keys[index], rids[index]))
            part = batch if len(missing) == len(batch) else batch.select([one is None for one in found])
            answer = await call(part)
            for index, result in zip(missing, answer if several else [answer], strict=True):
                found[index] = (result,)
            await _keep(results, [(keys[index], rids[index], _only(found[index])) for index in missing])
        finally:
            for slot in slots:
                results.leave(slot)
    return [_only(one) for one in found] if several else _only(found[0])


async def _entered(results: Results, key: bytes, rid: str) -> int:
    while (slot := results.enter(key, rid)) is None:
        await asyncio.sleep(TURN_S)
    return slot


async def _keep(results: Results, some: list[tuple[bytes, str, Any]]) -> None:
    """Keep those that are results, and wait until they are safe."""
    loop = asyncio.get_running_loop()
    safe = loop.create_future()
    kept = [one for one in some if one[2] is not None]  # a step that returned None has failed
    for number, (key, rid, result) in enumerate(kept, start=1):
        results.keep(key, rid, result, _telling(loop, safe) if number == len(kept) else None)
    if kept:
        await safe
    results.check()


def _telling(loop: asyncio.AbstractEventLoop, safe: asyncio.Future[None]) -> Callable[[], None]:
    def tell() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, safe)

    return tell


def _settle(safe: asyncio.Future[None]) -> None:
    if not safe.done():
        safe.set_result(None)


def _only(found: tuple[Any] | None) -> Any:
    assert found is not None
    return found[0]
