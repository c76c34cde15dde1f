"""Durable steps on the event loop: nothing here may block it.

A call that has its result makes room for the next one at once; what it gave is passed on when the commit that holds it
is on the disk. Commits are in the order of results, so counting says what is safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from sage.record import Batch
from sage.runtime.durable import Results
from sage.runtime.recall import TURN_S

Call = Callable[[Batch], Awaitable[Any]]


IN_COMMIT = 8
"""One in so many calls may be on its way to the disk, beside those that are under way."""


def most_in_flight(slots: int) -> int:
    """Of a step with so many slots: calls that are under way, or have a result that is not safe yet."""
    return slots + max(1, slots // IN_COMMIT)


class _Outcome(NamedTuple):
    kept: int
    slots: Sequence[int]
    then: Callable[[], None]


class AsyncRecall:
    """The results of one durable step, for a stage on the event loop, and used there. `on_news` is called from another
    thread when it is time to `settle`."""

    def __init__(self, results: Results, on_news: Callable[[], None]) -> None:
        self._results = results
        self._on_news = on_news
        self._kept = 0
        self._safe = 0
        self._slots: list[int] = []
        self._outcomes: deque[_Outcome] = deque()
        self._told = False

    @property
    def unsafe(self) -> int:
        """Outcomes that wait until they are safe."""
        return len(self._outcomes)

    async def call(self, batch: Batch, call: Call, *, several: bool) -> Any:
        """What `call` gives for `batch`, or gave in an earlier run; to be passed on by `when_safe`. With `several`,
        `call` takes a list of records and gives one of results; only those that have none are given to it."""
        results = self._results
        rids = list(batch.rids)
        keys = [results.key(rid, record) for rid, record in zip(rids, batch.records, strict=True)]
        found = [self._found(key, rid) for key, rid in zip(keys, rids, strict=True)]
        missing = [index for index, one in enumerate(found) if one is None]
        if missing:
            results.check_together([keys[index] for index in missing])
            part = batch if len(missing) == len(batch) else batch.select([one is None for one in found])
            slots: list[int] = []
            try:
                for index in missing:
                    slots.append(await self._entered(keys[index], rids[index]))
                answer = await call(part)
                for index, result in zip(missing, answer if several else [answer], strict=True):
                    found[index] = (result,)
                    self._keep(keys[index], rids[index], result)
            except BaseException:
                self._leave(slots)
                raise
            self._slots += slots
        return [_only(one) for one in found] if several else _only(found[0])

    def when_safe(self, then: Callable[[], None]) -> None:
        """There is an outcome: a `settle` behind all results so far calls `then`."""
        self._outcomes.append(_Outcome(self._kept, self._slots, then))
        self._slots = []
        if self._safe >= self._kept:
            self._tell()

    def settle(self) -> None:
        """See what has become safe. Raises the `StorageError` that ended the journal, if one did."""
        self._told = False
        safe = self._safe
        self._results.check()
        while self._outcomes and self._outcomes[0].kept <= safe:
            outcome = self._outcomes.popleft()
            self._leave(outcome.slots)
            outcome.then()

    def _found(self, key: bytes, rid: str) -> tuple[Any] | None:
        found = self._results.find(key)
        if found is None and (adopted := self._results.adopt(key, rid, self._one_is_safe)) is not None:
            self._kept += 1
            found = (adopted[0],)
        return found

    async def _entered(self, key: bytes, rid: str) -> int:
        while (slot := self._results.enter(key, rid)) is None:
            await asyncio.sleep(TURN_S)
        return slot

    def _keep(self, key: bytes, rid: str, result: Any) -> None:
        if result is not None:  # a step that returned None has failed
            self._results.keep(key, rid, result, self._one_is_safe)
            self._kept += 1

    def _leave(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._results.leave(slot)

    def _one_is_safe(self) -> None:
        """On the journal's thread, in the order of results; or never will be, which `settle` finds out."""
        self._safe += 1
        self._tell()

    def _tell(self) -> None:
        """The loop is woken once for all of a commit."""
        if not self._told:
            self._told = True
            self._on_news()


def _only(found: tuple[Any] | None) -> Any:
    assert found is not None
    return found[0]
