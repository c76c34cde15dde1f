"""Async steps: many calls in flight on the host's event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from time import perf_counter
from typing import Any

from sage.errors import StepTimeout
from sage.flow.admission import Admission
from sage.flow.graph import StepPlan
from sage.flow.operator import Operator
from sage.flow.step import Kind
from sage.record import Batch, merge
from sage.runtime.async_results import emitted
from sage.runtime.calls import checked_list
from sage.runtime.context import RuntimeContext
from sage.runtime.eventloop import CANCEL_GRACE_S, Signal
from sage.runtime.failures import LOST, GaveUp, Interrupted, Tries
from sage.runtime.flattening import is_many, one_or_many
from sage.runtime.inbox import LINGER_S, Inbox
from sage.runtime.order import OrderGate, Turn
from sage.runtime.recall_async import AsyncRecall, most_in_flight
from sage.runtime.routing import EventLoopConnection
from sage.runtime.stage import SharedOperator, Stage
from sage.runtime.windows import Admitted, Fixed, Found, Window


class AsyncStage(Stage):
    """Keeps as many calls of one async operator in flight as its window has room for."""

    def __init__(
        self, plan: StepPlan, context: RuntimeContext, shared: SharedOperator, inbox: Inbox, *, ordered: bool
    ) -> None:
        super().__init__(plan, context)
        self._shared = shared
        self._recall: AsyncRecall | None = None
        self._inbox = inbox
        self._take = plan.batch_size or 1
        self._window: Window = Found(plan.concurrency, context.clock) if plan.adaptive else Fixed(plan.concurrency)
        self._admission: Admission | None = None
        self._serving = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._done: list[Batch] = []
        self._asked = False
        self._lingered = False
        self._failure: BaseException | None = None
        self._order = OrderGate() if ordered else None
        self._signal: Signal
        self._stopping: asyncio.Event
        self.leads()

    async def open_async(self) -> None:
        self._signal = Signal()
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.context.control.on_stop(lambda: _call_soon(loop, self._stopping.set))
        self.context.control.on_abort(self._signal.set)
        results = None if self.context.durability is None else self.context.durability.results(self.plan)
        self._recall = None if results is None else AsyncRecall(results, self._signal.set)
        opening = self._shared.open()
        if inspect.isawaitable(opening):
            await opening
        operator = self._shared.operator
        self._admission = operator.admission() if isinstance(operator, Operator) else None
        if self._admission is not None:
            self._window = Admitted(self.plan, self._signal.set_here)
            self.context.control.on_stop(self._admission.hurry)

    async def close_async(self) -> None:
        closing = self._shared.close()
        if inspect.isawaitable(closing):
            await closing

    def wake(self) -> None:
        """A connection is clear again (from any thread)."""
        self._signal.set()

    async def run(self) -> None:
        """Take from the inbox and call, until the input has ended and every call is done."""
        try:
            while not self._drained():
                self._check()
                while self._has_room(self._serving) and self._start_calls():
                    pass
                if self._wants_more():
                    self._asked = True
                    self._inbox.when_filled(self._filled)
                if not self._drained():  # the end may have come since, and it gives no signal to whom did not ask
                    await self._signal.wait()
            self._check()
            self._hand_on()
            self.finish()
            while self._blocked():
                await self._signal.wait()
                self._check()
        finally:
            await self._cancel_calls()

    def _drained(self) -> bool:
        return self._inbox.ended and self._serving == 0 and self._unsafe == 0

    @property
    def _unsafe(self) -> int:
        """Calls whose result is not on the disk yet."""
        return 0 if self._recall is None else self._recall.unsafe

    def _has_room(self, serving: int) -> bool:
        """Whether one more call may be made. Those whose result waits for the disk would be paid again like those that
        are under way, if the process died now: so they count."""
        if not self._window.has_room(serving):
            return False
        return self._recall is None or serving + self._recall.unsafe < most_in_flight(self._window.slots)

    def _wants_more(self) -> bool:
        """Whether to ask the inbox for a signal; one that has something or has ended would signal over and over."""
        waiting = self._asked or self._lingered or self._inbox.ended
        return self._has_room(self._serving) and not waiting and not self._blocked()

    def _filled(self) -> None:
        """The inbox has something, or nothing more will come (from any thread)."""
        self._asked = False
        self._signal.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        self.context.control.check()
        if self._recall is not None:
            self._recall.settle()

    def _start_calls(self) -> bool:
        """Start what there is room for; False if there is nothing to do before the next signal."""
        part = self._next()
        if part is None:
            return False
        self._serving += 1
        call = asyncio.get_running_loop().create_task(self._serve(part, self._enter(part)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return True

    def _next(self) -> Batch | None:
        """The records of the next call, if it may start now; else the signal tells when to ask again."""
        if self._blocked() or (self._take > 1 and self._lingers()):
            return None
        return self._inbox.take_now(self._take)

    def _enter(self, part: Batch) -> Turn | None:
        """Take a place in the order; at once when `part` is taken from the inbox, or a later part would come before."""
        return self._order.enter(part.keys or ()) if self._order is not None else None

    async def _serve(self, part: Batch, turn: Turn | None) -> None:
        """One slot: call after call, as long as there is something to do. A call that ends makes room for the next at
        once, not after the others that ended in the same turn of the loop."""
        following: Batch | None = part
        while following is not None and self._failure is None:
            self.stats.received += len(following)
            self.stats.arrived(following, self.context.clock.monotonic())
            await self._one(following, turn)
            following = self._next() if self._goes_on() else None
            turn = self._enter(following) if following is not None else None
        self._serving -= 1
        self._signal.set_here()

    def _goes_on(self) -> bool:
        """Whether a slot that is done with a call may make another one."""
        if self._has_room(self._serving):  # there is room for more than this one
            self._signal.set_here()
        return self._has_room(self._serving - 1) and not self.context.control.aborted.is_set()

    def _lingers(self) -> bool:
        """Whether to wait a moment for a fuller batch."""
        if self._inbox.ended or not 0 < self._inbox.records < self._take or self._lingered:
            self._lingered = False
            return False
        self._lingered = True
        asyncio.get_running_loop().call_later(LINGER_S, self._signal.set_here)
        return True

    def _blocked(self) -> bool:
        blocked = False
        for targets in self.branches.values():
            for target in targets:
                assert isinstance(target, EventLoopConnection)
                if target.blocked:
                    target.retry()
                blocked = blocked or target.blocked
        return blocked

    async def _one(self, batch: Batch, turn: Turn | None) -> None:
        started = perf_counter()
        done: list[Batch] = []
        try:
            self.failures.policy.called()
            done = await self._process(batch, 1)
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 -- the task's outermost edge: it becomes an outcome
            if not isinstance(error, asyncio.CancelledError):
                self._failure = self._failure or error
        took = perf_counter() - started
        self.stats.busy_s += took
        self.stats.calls.record(took / len(batch), len(batch))
        self.context.ledger.publish()
        if self._recall is None:
            self._leave(turn, done)
        else:
            self._recall.when_safe(lambda: self._leave(turn, done))

    def _leave(self, turn: Turn | None, done: list[Batch]) -> None:
        if turn is None or self._order is None:
            self._collect(done)
        else:
            self._order.leave(turn, lambda: self._collect(done))

    def _collect(self, done: list[Batch]) -> None:
        if done and not self._done:
            asyncio.get_running_loop().call_soon(self._hand_on)
        self._done += done

    def _hand_on(self) -> None:
        """Emit all that was done in this turn of the loop as one batch."""
        done, self._done = [batch for batch in self._done if batch.records], []
        if done:
            self.emit(merge(done))

    async def _process(self, batch: Batch, attempts: int) -> list[Batch]:
        """What to emit for `batch`: one record, or a list of records that is halved if it fails."""
        try:
            result = await self._attempt(batch, Tries(attempts))
        except GaveUp as end:
            if len(batch) > 1:
                half, spent = len(batch) // 2, self.plan.retries + 1
                first = await self._process(batch.slice(0, half), spent)
                return first + await self._process(batch.slice(half, len(batch)), spent)
            result = self.failures.give_up(batch, 0, end.cause, end.attempts)
            if result is LOST:
                return []
            result = [result] if self.plan.batch_size else result
            result = one_or_many(result) if self.plan.kind is Kind.FLAT_MAP else result
        return emitted(self, batch, result)

    async def _attempt(self, batch: Batch, tries: Tries) -> Any:
        """The result of the first attempt that does not raise. Raises `GaveUp`, `Interrupted` or a fatal error."""
        while True:
            try:
                return await self._call(batch)
            except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                again = self.failures.next_try(error, tries)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                again = self.failures.next_try(RuntimeError(f"the operator cancelled its own call: {error!r}"), tries)
            self.stats.parked += again.parked
            try:
                await asyncio.wait_for(self._stopping.wait(), again.wait_s)
            except TimeoutError:
                self.stats.paused_s += again.wait_s
                continue
            finally:
                self.stats.parked -= again.parked
            raise Interrupted

    async def _call(self, batch: Batch) -> Any:
        if self._recall is None:
            return await self._call_now(batch)
        return await self._recall.call(batch, self._call_now, several=self.plan.batch_size is not None)

    async def _call_now(self, batch: Batch) -> Any:
        attempt = self._window.attempt()
        if attempt is None:
            return await self._called(batch, asyncio.timeout(self.plan.timeout_s))
        error: BaseException | None = None
        try:
            return await self._called(batch, attempt.timer(self.plan.timeout_s))
        except BaseException as raised:
            error = raised
            raise
        finally:
            attempt.end(error)

    async def _called(self, batch: Batch, timer: asyncio.Timeout) -> Any:
        argument = batch.records if self.plan.batch_size else batch.records[0]
        try:
            async with timer as limit:
                answer = self._shared.operator(argument)
                result = [child async for child in answer] if inspect.isasyncgen(answer) else await answer
        except TimeoutError as error:
            if limit.expired():
                raise StepTimeout(
                    "E410",
                    f"no result within {self.plan.timeout_s:g} s",
                    at=f"step {self.plan.name!r}",
                    try_="a larger timeout_s",
                ) from error
            raise
        if self.plan.batch_size:
            return checked_list(result, len(batch), self.plan.name)
        if self.plan.kind is Kind.FILTER:
            return bool(result)
        return list(result) if self.plan.kind is Kind.FLAT_MAP and is_many(result) else result

    def look(self) -> None:
        self.stats.slots, self.stats.turns = self._window.slots, self._window.turns
        self.stats.turned_s = self._window.turned_s
        if self._admission is not None:
            self.stats.endpoints = self._admission.figures()

    async def _cancel_calls(self) -> None:
        if self._calls:
            for call in self._calls:
                call.cancel()
            await asyncio.wait(self._calls, timeout=CANCEL_GRACE_S)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
