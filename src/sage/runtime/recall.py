"""Durable steps on threads: each result is looked up before its call, and safe before it is passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from sage.errors import RecordError
from sage.record import Batch
from sage.runtime.control import Control
from sage.runtime.durable import Results
from sage.runtime.failures import LOST

TURN_S = 0.01
"""Between two looks whether a call that must be alone may be made; only after its process died of it, perhaps."""
HOLD_S = 0.005
"""For so long results of calls one after the other are gathered at most: they share a commit."""

CallEach = Callable[[Batch], tuple[list[Any], Batch]]


class Recall:
    """The results of one durable step, for a stage that calls. Used by one thread."""

    def __init__(self, results: Results, control: Control) -> None:
        self._results = results
        self._control = control
        self._last = 0
        self._slots: list[int] = []

    def each(
        self, batch: Batch, call_each: CallEach, recover: Callable[[Batch, RecordError], Any]
    ) -> tuple[list[Any], Batch]:
        """`call_each`, record by record, but for those that have a result."""
        results: list[Any] = []
        mask: list[bool] = []
        since_s = perf_counter()
        with self._settling():
            for index in range(len(batch)):
                result = self._one(batch.slice(index, index + 1), call_each, recover)
                mask.append(result is not LOST)
                if result is not LOST:
                    results.append(result)
                if self._slots and perf_counter() - since_s > HOLD_S:
                    self._settle()
                    since_s = perf_counter()
        return results, batch if all(mask) else batch.select(mask)

    def together(self, batch: Batch, call: Callable[[Batch], list[Any]]) -> list[Any]:
        """One result for each record; only those that have none are given to `call`."""
        rids = list(batch.rids)
        keys = [self._results.key(rid, record) for rid, record in zip(rids, batch.records, strict=True)]
        with self._settling():
            found = [self._found(key, rid) for key, rid in zip(keys, rids, strict=True)]
            missing = [index for index, one in enumerate(found) if one is None]
            self._results.check_together([keys[index] for index in missing])
            if missing:
                part = batch if len(missing) == len(batch) else batch.select([one is None for one in found])
                for index in missing:
                    self._enter(keys[index], rids[index])
                for index, result in zip(missing, call(part), strict=True):
                    found[index] = (result,)
                    self._keep(keys[index], rids[index], result)
        return [one[0] for one in found if one is not None]

    def _one(self, one: Batch, call_each: CallEach, recover: Callable[[Batch, RecordError], Any]) -> Any:
        rid = one.rids[0]
        key = self._results.key(rid, one.records[0])
        try:
            found = self._found(key, rid)
        except RecordError as error:
            return recover(one, error)
        if found is not None:
            return found[0]
        self._enter(key, rid)
        results, left = call_each(one)
        if not left.records:
            return LOST
        self._keep(key, rid, results[0])
        return results[0]

    def _found(self, key: bytes, rid: str) -> tuple[Any] | None:
        found = self._results.find(key)
        if found is None and (adopted := self._results.adopt(key, rid)) is not None:
            result, self._last = adopted
            found = (result,)
        return found

    def _enter(self, key: bytes, rid: str) -> None:
        while (slot := self._results.enter(key, rid)) is None:
            self._settle()  # it may be the calls before this one that it waits for
            self._control.check()
            self._control.aborted.wait(TURN_S)
        self._slots.append(slot)

    def _keep(self, key: bytes, rid: str, result: Any) -> None:
        if result is not None:  # a step that returned None has failed
            self._last = self._results.keep(key, rid, result)

    @contextmanager
    def _settling(self) -> Iterator[None]:
        try:
            yield
            self._results.wait(self._last)
        finally:
            self._leave()

    def _settle(self) -> None:
        self._results.wait(self._last)
        self._leave()

    def _leave(self) -> None:
        for slot in self._slots:
            self._results.leave(slot)
        self._slots.clear()
