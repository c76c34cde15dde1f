"""Async calls of a run that has lost a host: each is told before it is made, and those that may have killed it are made
alone."""

from __future__ import annotations

import asyncio
from typing import Any

from sage.record import Batch
from sage.runtime.asynchronous import AsyncStage
from sage.runtime.failures import poison
from sage.runtime.ledger import MAX_OPEN_RECORDS
from sage.runtime.order import Turn
from sage.runtime.suspects import Say, Try, Watch


class Solitude:
    """The calls on one event loop: those that have to be alone wait for all others, and others do not overtake them.

    Used on that loop.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._is_alone = False
        self._want_alone = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def enter(self, *, alone: bool) -> None:
        """Wait for one's turn; `leave` is due after it."""
        self._want_alone += alone
        try:
            while self._is_alone or (self._under_way if alone else self._want_alone):
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn
        finally:
            self._want_alone -= alone
        self._under_way += 1
        self._is_alone = alone

    def leave(self) -> None:
        """The call is over."""
        self._under_way -= 1
        self._is_alone = False
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():  # it was cancelled
                turn.set_result(None)


class WatchedAsyncStage(AsyncStage):
    """Makes one call a record, until as many came as can have been open when a host died."""

    def __init__(self, *parts: Any, watch: Watch, say: Say, solitude: Solitude, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._watch = watch
        self._say = say
        self._solitude = solitude
        self._left = MAX_OPEN_RECORDS
        self._take = 1

    async def _one(self, batch: Batch, turn: Turn | None) -> None:
        if self._left <= 0:
            self._take = self.plan.batch_size or 1
            await super()._one(batch, turn)
            return
        self._left -= 1
        attempt = Try(self.plan.name, batch.rids[0])
        if attempt in self._watch.condemned:
            self.failures.refuse(batch, poison())
            self.context.ledger.publish()
            self._leave(turn, [])
            return
        call = f"{attempt.step} {attempt.rid}"
        await self._solitude.enter(alone=attempt in self._watch.suspected)
        try:
            await asyncio.to_thread(self._say, call, attempt)  # which waits until the driver has it
            await super()._one(batch, turn)
            self._say(call, None)
        finally:
            self._solitude.leave()
