"""One call of a `ChatClient` from a test, in an event loop of its own that must be left clean."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from endpoints import MODEL
from sage.errors import SageError
from sage.llm.client import ChatClient
from sage.llm.wire import Completion

T = TypeVar("T")
QUESTION = [{"role": "user", "content": "why?"}]


def with_client(work: Callable[[ChatClient], Awaitable[T]], url: str, **options: Any) -> T:
    """Run `work` with an open client; asserts that no task and no connection is left."""

    async def run() -> T:
        client = ChatClient(url, **{"model": MODEL, **options})
        await client.open()
        try:
            return await work(client)
        finally:
            await client.close()
            await client.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(run())


def ask(url: str, *, request: dict[str, Any] | None = None, **options: Any) -> Completion:
    """Ask `QUESTION` once."""
    return with_client(lambda client: client.complete(QUESTION, **(request or {})), url, **options)


def refusal(url: str, **options: Any) -> SageError:
    """The error that asking once ends with."""
    with pytest.raises(SageError) as caught:
        ask(url, **options)
    return caught.value
