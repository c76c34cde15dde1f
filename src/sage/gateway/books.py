"""The ledger seen from an event loop: what was used is added up here, and written by a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from sage.errors import StorageError
from sage.gateway.allowance import period_begins
from sage.gateway.config import Period
from sage.gateway.ledger import Ledger, Used

Account = tuple[str, str, str, str]
GATHERED_S = 0.05
"""One transaction for each request would take a third of the gateway's time."""
MOST_UNWRITTEN = 10_000
"""Accounts: clients name their jobs and steps as they like, also while the file cannot be written."""


class Books:
    """Opened in one event loop. While the file cannot be written, what was used is kept and tried again with the next
    request."""

    def __init__(self, path: Path) -> None:
        self._ledger = Ledger(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sage-gateway-ledger")
        self._unwritten: dict[Account, Used] = {}
        self._writing: asyncio.Task[None] | None = None
        self.failure: StorageError | None = None
        """Of the last attempt to write."""

    def add(self, used: Used) -> None:
        """Returns at once; it is written `GATHERED_S` later, together with what came meanwhile."""
        self._keep(used)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    def spent(self, wall_s: float) -> dict[Period, dict[str, int]]:
        """Tokens by key in the period of each kind in which `wall_s` lies. Blocks; for the start."""
        return {per: self._ledger.spent(period_begins(per, wall_s)) for per in get_args(Period)}

    async def close(self) -> None:
        """Write what is left, if that is possible. May be called twice."""
        if self._writing is not None:
            await self._writing
        if self._unwritten:
            await self._write()
        self._thread.shutdown()
        self._ledger.close()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unwritten:
            await asyncio.sleep(GATHERED_S)
            batch, self._unwritten = self._unwritten, {}
            try:
                await loop.run_in_executor(self._thread, self._ledger.add, list(batch.values()))
            except StorageError as error:
                self.failure = error
                for used in batch.values():
                    self._keep(used)
                return
            self.failure = None

    def _keep(self, used: Used) -> None:
        account = used[:4]
        if len(self._unwritten) >= MOST_UNWRITTEN and account not in self._unwritten:
            account = (used.key, "", "", used.model)
        old = self._unwritten.get(account, Used(*account, requests=0))
        self._unwritten[account] = Used(*account, *(a + b for a, b in zip(old[4:], used[4:], strict=True)))
