"""Runs batches: each of their requests once, behind everybody else's. What has ended is on disk before it counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import msgspec

from sage.clock import SYSTEM_CLOCK
from sage.errors import EndpointBusy, EndpointError, RecordError
from sage.gateway.batch import (
    BAND,
    ENDED,
    MAX_ERRORS,
    MAX_LINE_BYTES,
    MAX_REQUESTS,
    READERS,
    Batch,
    Line,
    LineError,
    Result,
    ended,
    never_sent,
    new_id,
    read_line,
)
from sage.gateway.batch_journal import BatchJournal
from sage.gateway.batch_store import BatchStore
from sage.gateway.callers import Caller
from sage.gateway.faults import Refusal, of_endpoints
from sage.gateway.requests import Asked, Labels

AT_ONCE = 128
"""Requests of one batch that wait for their turn or run; the others stay in their file."""
ATTEMPTS = 3
LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)
Answer = Callable[[Asked, Caller, Labels, int, float], Awaitable[tuple[int, bytes]]]
"""`sage.gateway.serving.Serving.whole`."""


class BatchRunner:
    """From `resume` to `close`, after which another one goes on where this one stopped: what was in flight is asked
    again, what has ended is not."""

    def __init__(self, store: BatchStore, answer: Answer, named: Callable[[str], Caller | None], longest: int) -> None:
        self._store = store
        self._answer = answer
        self._named = named
        self._longest = longest
        self._running: dict[str, asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Go on with what was left."""
        for batch in reversed(self._store.batches()):
            if batch.status not in ENDED:
                self.start(batch)

    def start(self, batch: Batch) -> None:
        task = self._running[batch.id] = asyncio.create_task(self._run(batch))
        task.add_done_callback(lambda ended: self._forget(batch.id, ended))

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        if self._running.get(name) is ended:
            del self._running[name]

    def is_running(self, batch: Batch) -> bool:
        return batch.status not in ENDED

    def unfinished(self, tenant: str) -> int:
        return sum(batch.tenant == tenant and batch.status not in ENDED for batch in self._store.batches())

    async def cancel(self, batch: Batch) -> None:
        """What is in flight is broken off; returns when that is so, and the batch is being wound up."""
        if batch.status not in ("validating", "in_progress"):
            return
        batch.enter("cancelling", SYSTEM_CLOCK.wall())
        self._store.save(batch)
        await self._stop(batch.id)
        self.start(batch)

    async def close(self) -> None:
        for name in list(self._running):
            await self._stop(name)

    async def _stop(self, name: str) -> None:
        task = self._running.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, batch: Batch) -> None:
        try:
            await self._take_on(batch)
        except (OSError, msgspec.MsgspecError):  # the disk is full, or gone; what is written there is not ours
            self._failed(batch, "storage_error", "the gateway cannot keep what became of it")
        except Exception:  # noqa: BLE001 -- the task's outermost edge: or it would seem to be in progress for ever
            _log.exception("E990: a batch was given up")
            self._failed(batch, "internal_error", "the gateway has a defect")

    def _failed(self, batch: Batch, code: str, message: str) -> None:
        batch.errors = [LineError(code, message, 0)]
        batch.enter("failed", SYSTEM_CLOCK.wall())
        with suppress(OSError):
            self._store.save(batch)

    async def _take_on(self, batch: Batch) -> None:
        caller = self._named(batch.key)
        if batch.status == "validating" and not await self._is_valid(batch, caller):
            return
        finished = await asyncio.to_thread(self._counted, batch)
        if batch.status == "in_progress" and caller is not None:
            async with BatchJournal(self._store.journal(batch)) as journal:
                await self._ask_all(batch, caller, finished, journal)
            batch.enter("finalizing", SYSTEM_CLOCK.wall())
        elif caller is None:
            batch.enter("cancelling", SYSTEM_CLOCK.wall())  # its key is gone
        winding_up = asyncio.ensure_future(asyncio.to_thread(self._wind_up, batch))
        try:
            await asyncio.shield(winding_up)
        except asyncio.CancelledError:
            await winding_up  # the folder must be left to nobody before
            raise

    async def _is_valid(self, batch: Batch, caller: Caller | None) -> bool:
        batch.errors, batch.request_counts.total = await asyncio.to_thread(self._checked, batch)
        if caller is None:
            batch.errors = [LineError("invalid_api_key", "the key does not exist any more", 0)]
        now_s = SYSTEM_CLOCK.wall()
        batch.enter("failed" if batch.errors else "in_progress", now_s)
        self._store.save(batch)
        return not batch.errors

    def _checked(self, batch: Batch) -> tuple[list[LineError], int]:
        """What is wrong with the file, and how many requests it has. Whether a request itself is good is found when it
        is its turn."""
        card = self._store.file(batch.input_file_id, batch.tenant)
        if card is None:
            return [LineError("missing_file", "the file does not exist any more", 0)], 0
        errors, seen = [], set[str]()
        for number, raw in enumerate(self._store.lines(card), 1):
            try:
                line = _read(raw)
                if line.url != batch.endpoint:
                    raise ValueError(f"the url is not {batch.endpoint}")
                if line.custom_id in seen:
                    raise ValueError("the custom_id stands there twice")
                seen.add(line.custom_id)
            except ValueError as error:
                errors.append(LineError("invalid_line", str(error), number))
            if len(errors) == MAX_ERRORS or number > MAX_REQUESTS:
                break
        if not seen and not errors:
            errors = [LineError("empty_file", "the file has no requests", 0)]
        elif len(seen) > MAX_REQUESTS:
            errors.append(LineError("too_many_requests", f"at most {MAX_REQUESTS} requests", MAX_REQUESTS + 1))
        return errors, len(seen)

    async def _ask_all(self, batch: Batch, caller: Caller, finished: set[str], journal: BatchJournal) -> None:
        """Until its time is over."""
        lines = self._lines(batch, finished)
        left_s = max(0.0, batch.expires_at - SYSTEM_CLOCK.wall())
        try:
            async with asyncio.timeout(left_s), asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._ask(batch, caller, lines, journal))
        except TimeoutError:
            return
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _ask(self, batch: Batch, caller: Caller, lines: Iterator[Line], journal: BatchJournal) -> None:
        """One after another, each with whatever becomes of it."""
        for line in lines:
            result = await self._result(batch, caller, line)
            await journal.keep(result)  # also a file full of mistakes does not hold up the others: it waits here
            _count(batch, result)

    async def _result(self, batch: Batch, caller: Caller, line: Line) -> Result:
        labels = Labels(batch.job or batch.id, batch.step, None, False)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                asked = READERS[batch.endpoint](bytes(line.body), self._longest if caller.budgeted else None)
                if asked.stream:
                    raise Refusal(400, "a request of a batch cannot be streamed", param="stream")
                status, body = await self._patiently(asked, caller, labels, batch)
                return ended(line, status, body)
            except Refusal as refusal:
                return ended(line, refusal.status, refusal.body)
            except (EndpointError, RecordError) as error:
                if attempt == ATTEMPTS or isinstance(error, RecordError):
                    failed = of_endpoints(error, 0.0)
                    return ended(line, failed.status, failed.body)
        raise AssertionError("the last attempt returns")

    async def _patiently(self, asked: Asked, caller: Caller, labels: Labels, batch: Batch) -> tuple[int, bytes]:
        """What is a matter of time is waited for, until the batch's is over."""
        while True:
            try:
                return await self._answer(asked, caller, labels, BAND, max(1.0, batch.expires_at - SYSTEM_CLOCK.wall()))
            except Refusal as refusal:
                if refusal.status != 429 or refusal.retry_after_s is None:
                    raise
                await asyncio.sleep(min(LONGEST_PAUSE_S, max(1.0, refusal.retry_after_s)))
            except EndpointBusy as busy:
                await asyncio.sleep(min(LONGEST_PAUSE_S, max(1.0, busy.retry_after_s or 1.0)))

    def _lines(self, batch: Batch, finished: set[str]) -> Iterator[Line]:
        """Those that have not ended yet."""
        card = self._store.file(batch.input_file_id, batch.tenant)
        if card is None:
            return
        for raw in self._store.lines(card):
            line = _read(raw)
            if line.custom_id not in finished:
                yield line

    def _counted(self, batch: Batch) -> set[str]:
        """The requests that have ended."""
        batch.request_counts.completed = batch.request_counts.failed = 0
        finished = set()
        for _, result in self._store.results(batch):
            finished.add(result.custom_id)
            _count(batch, result)
        return finished

    def _wind_up(self, batch: Batch) -> None:
        """What has ended becomes files; what has not is named among the errors."""
        finished = self._counted(batch)
        code = "batch_cancelled" if batch.status == "cancelling" else "batch_expired"
        said = "the batch was cancelled" if code == "batch_cancelled" else "the batch's time was over"
        left = [never_sent(line.custom_id, code, said) for line in self._lines(batch, finished)]
        batch.request_counts.failed += len(left)
        if batch.request_counts.completed:
            batch.output_file_id = batch.output_file_id or new_id("file-")
        if batch.request_counts.failed:
            batch.error_file_id = batch.error_file_id or new_id("file-")
        self._store.save(batch)
        now_s = SYSTEM_CLOCK.wall()
        self._store.publish(batch, left, int(now_s))
        if batch.status == "cancelling":
            batch.enter("cancelled", now_s)
        else:
            batch.enter("expired" if left else "completed", now_s)
        self._store.save(batch)
        self._store.clear(batch)


def _count(batch: Batch, result: Result) -> None:
    if result.good:
        batch.request_counts.completed += 1
    else:
        batch.request_counts.failed += 1


def _read(raw: bytes) -> Line:
    """Raises ValueError."""
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        return read_line(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
