"""Generate: the answer, from a language model if an endpoint is set, else quoted from the passages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sage import settings
from sage.errors import PipelineError, RecordError
from sage.flow.admission import Admission
from sage.flow.operator import Operator, OperatorContext
from sage.llm.sharing import Address, PoolUser, join
from sage.rag.embed import Record
from sage.rag.extract import Extract
from sage.rag.shape import Shape


class Generate(Operator):
    """Adds ``answer`` (or what `into` says) and ``answered_by`` to a record with a ``prompt`` (see `Prompt`), and
    ``sources`` to one with passages.

    With an endpoint ``answered_by`` is the model's name, ``sources`` are the passages that were given to it, and
    ``usage`` counts its tokens. With a `schema` (see `sage.rag.shape.Shape`) the model is asked for JSON of that shape,
    and the answer is its values: dicts, lists, texts, numbers. One of another shape is asked for again, as often as the
    step's ``retries`` say.

    The endpoint is the one at `url` (several that serve the same model: a list), else SAGE's gateway
    (the setting ``gateway_url``), else those of ``llm_url``. Without one, `Extract` answers with quotes, and
    ``answered_by`` says so. `key` and `model` default to the settings, too. Whether an endpoint is there, and takes
    the key and the model, is found out before the first record is read.

    All steps and jobs of a process that ask the same endpoints share a pool (`sage.llm.sharing`): how many requests are
    in flight is found by feedback, and jobs get equal shares of the tokens.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"concurrency": "adaptive", "retries": 5, "durable": True}

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        key: settings.Secret | str | None = None,
        model: str | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        prompt: str = "prompt",
        passages: str = "passages",
        into: str = "answer",
        schema: Any = None,
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
        self.into = into
        self.shape = None if schema is None else Shape(schema)
        self.without_endpoint = without_endpoint or Extract(passages=passages, into=into)
        self._model = model
        self._user: PoolUser | None = None

    def check(self) -> None:
        """Raise the `SageError` that `open` would raise without connecting to anything."""
        if self.shape is not None:
            self.shape.open()
        if self._address(settings.load()) is not None:
            return
        if self.shape is not None:
            raise PipelineError(
                "E268", "answers of a given shape need a model", at="Generate(schema=...)", got="no endpoint",
                try_="SAGE_LLM_URL, or Generate(url=...)",
            )  # fmt: skip
        self.without_endpoint.check()

    async def open(self, context: OperatorContext | None = None) -> None:  # type: ignore[override]  # may be async
        found = settings.load()
        address = self._address(found)
        if address is None:
            self.without_endpoint.open(context)
        else:
            self._model = self.model or found.llm_model
            self._user = await join(address, context)
            await self._user.check(self._model)

    def depends_on(self) -> Any:
        found = settings.load()
        address = self._address(found)
        model = self.model or found.llm_model
        return None if address is None else [model] if model is not None else ["the first of", *address.urls]

    def admission(self) -> Admission | None:
        return self._user

    async def __call__(self, record: Record) -> Record:
        if self._user is None:
            if self.passages not in record:
                raise RecordError(
                    "E461", "no endpoint is set, and the record has no passages to quote", at="Generate",
                    try_="SAGE_LLM_URL, or Generate(url=...)",
                )  # fmt: skip
            return await asyncio.to_thread(self.without_endpoint, record)
        messages = record.get(self.prompt)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise RecordError(
                "E461", "the record has no prompt", at=f"Generate, key {self.prompt!r}", got=messages,
                expected="chat messages or a text, as Prompt makes them",
            )  # fmt: skip
        completion = await self._user.complete(
            messages,
            model=self._model,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            **(self.shape.asked_for() if self.shape is not None else {}),
        )
        sources = {"sources": _sources(record[self.passages] or [])} if self.passages in record else {}
        return {
            **record,
            self.into: completion.text if self.shape is None else self.shape.read(completion),
            **sources,
            "answered_by": completion.model,
            "usage": {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens},
        }

    async def close(self) -> None:  # type: ignore[override]  # may be async
        user, self._user = self._user, None
        if user is not None:
            await user.close()
        self.without_endpoint.close()

    def _address(self, found: settings.Settings) -> Address | None:
        """Of the endpoints, or None where none is set."""
        if self.url is not None:
            urls = self.url.split(",") if isinstance(self.url, str) else self.url
            checked = tuple(settings.check_url(url.strip(), "Generate(url=...)") for url in urls)
            return Address(checked, self.key or found.llm_key, found.llm_timeout_s)
        if found.gateway_url is not None:
            return Address((found.gateway_url,), self.key or found.gateway_key, found.llm_timeout_s, is_gateway=True)
        if found.llm_urls:
            return Address(found.llm_urls, self.key or found.llm_key, found.llm_timeout_s)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_user": None}


def _sources(passages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = ("id", "title", "start", "end")
    return [{"number": n, **{key: p.get(key) for key in keys}} for n, p in enumerate(passages, 1)]
