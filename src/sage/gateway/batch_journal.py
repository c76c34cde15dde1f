"""What has become of a batch's requests, on the disk before it counts."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from sage.gateway.batch import Result


class BatchJournal:
    """Appends to `file`, and closes it at the end of the block. One sync serves all that were written before it began:
    what is finished while a sync runs waits for the next one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._synced = 0
        self._sync: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._sync is not None:  # a thread uses the file
                await asyncio.wait([self._sync])
        finally:  # also where the gateway ends at once
            self._file.close()

    async def keep(self, result: Result) -> None:
        """Returns when it would survive a power failure. Raises OSError."""
        self._file.write(msgspec.json.encode(result) + b"\n")
        self._file.flush()
        self._written += 1
        number = self._written
        while self._synced < number:
            if self._sync is None or self._sync.done():
                self._sync = asyncio.create_task(self._sync_all())
            await asyncio.shield(self._sync)

    async def _sync_all(self) -> None:
        written = self._written
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self._synced = written
