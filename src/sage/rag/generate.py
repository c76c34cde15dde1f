"""Generate: the answer, from a language model if an endpoint is set, else quoted from the passages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from sage import settings
from sage.errors import RecordError
from sage.flow.operator import Operator, OperatorContext
from sage.llm.client import ChatClient
from sage.rag.embed import Record
from sage.rag.extract import Extract


class Generate(Operator):
    """Adds ``answer``, ``sources`` and ``answered_by`` to a record with a ``prompt`` (see `Prompt`).

    With an endpoint (`url`, or the setting ``llm_url``) ``answered_by`` is the model's name, ``sources`` are the
    passages that were given to it, and ``usage`` counts its tokens. Without one, `Extract` answers with quotes, and
    ``answered_by`` says so. `key` and `model` default to the settings, too. Whether the endpoint is there, and takes
    the key and the model, is found out before the first record is read.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"concurrency": 64, "retries": 5, "durable": True}

    def __init__(
        self,
        url: str | None = None,
        *,
        key: settings.Secret | str | None = None,
        model: str | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        prompt: str = "prompt",
        passages: str = "passages",
        without_endpoint: Extract | None = None,
    ) -> None:
        self.url = url
        self.key = settings.Secret(key) if isinstance(key, str) else key
        self.model = model
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.seed = seed
        self.prompt = prompt
        self.passages = passages
        self.without_endpoint = without_endpoint or Extract(passages=passages)
        self._client: ChatClient | None = None

    def check(self) -> None:
        """Raise the `SageError` that `open` would raise without connecting to anything."""
        if self._endpoint() is None:
            self.without_endpoint.check()

    async def open(self, context: OperatorContext | None = None) -> None:  # type: ignore[override]  # may be async
        self._client = self._endpoint()
        if self._client is None:
            self.without_endpoint.open(context)
        else:
            await self._client.open()
            await self._client.check()

    async def __call__(self, record: Record) -> Record:
        if self._client is None:
            return await asyncio.to_thread(self.without_endpoint, record)
        messages = record.get(self.prompt)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise RecordError(
                "E461", "the record has no prompt", at=f"Generate, key {self.prompt!r}", got=messages,
                expected="chat messages or a text, as Prompt makes them",
            )  # fmt: skip
        completion = await self._client.complete(
            messages, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
        )
        return {
            **record,
            "answer": completion.text,
            "sources": _sources(record.get(self.passages) or []),
            "answered_by": completion.model,
            "usage": {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens},
        }

    async def close(self) -> None:  # type: ignore[override]  # may be async
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self.without_endpoint.close()

    def _endpoint(self) -> ChatClient | None:
        """A client that is not open yet, or None where no endpoint is set."""
        found = settings.load()
        url = self.url or found.llm_url
        if url is None:
            return None
        return ChatClient(
            url, self.key or found.llm_key, self.model or found.llm_model, total_timeout_s=found.llm_timeout_s
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}


def _sources(passages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = ("id", "title", "start", "end")
    return [{"number": n, **{key: p.get(key) for key in keys}} for n, p in enumerate(passages, 1)]
