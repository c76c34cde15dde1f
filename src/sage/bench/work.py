"""What records do in a real run: the demands of `sage.simulation`'s pipelines, on real processes and endpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, NamedTuple

from sage.flow.operator import OperatorContext
from sage.llm.client import ChatClient
from sage.simulation import Phase


class Stamped(NamedTuple):
    """One record, and when what happened to it; on one machine all its processes have the same monotonic clock."""

    number: int
    phase: Phase
    read_s: float
    host: int = 0
    began_s: float = 0.0
    ended_s: float = 0.0
    asked_s: float = 0.0
    home_s: float = 0.0
    outcome: Any = None


class Compute:
    """Sleeps as long as its record would compute, so that a small machine can carry many nodes."""

    def __call__(self, record: Stamped) -> Stamped:
        began_s = monotonic()
        sleep(record.phase.compute_s)
        return record._replace(host=os.getpid(), began_s=began_s, ended_s=monotonic())


class Perform:
    """Calls a function with the number of the record, and keeps what it returns."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self._function = function

    def __call__(self, record: Stamped) -> Stamped:
        began_s = monotonic()
        outcome = self._function(record.number)
        return record._replace(host=os.getpid(), began_s=began_s, ended_s=monotonic(), outcome=outcome)


class Ask:
    """Asks the endpoint for as many tokens as the record needs."""

    def __init__(self, url: str) -> None:
        self._client = ChatClient(url)

    async def open(self, context: OperatorContext) -> None:
        await self._client.open()

    async def __call__(self, record: Stamped) -> Stamped:
        asked_s = monotonic()
        # Four letters are a token to the simulated endpoint, and no prompt begins like another: none is cached.
        prompt = f"{record.number:08}" + "word" * (record.phase.prompt_tokens - 5)
        tokens = record.phase.output_tokens
        await self._client.complete([{"role": "user", "content": prompt}], max_tokens=tokens, ignore_eos=True)
        return record._replace(asked_s=asked_s)

    async def close(self) -> None:
        await self._client.close()
