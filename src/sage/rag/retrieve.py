"""Retrieve: the passages that may answer a question, as a step of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.errors import StorageError
from sage.flow.operator import Operator, OperatorContext
from sage.rag.embed import Record, text_field
from sage.rag.index import Index


class Retrieve(Operator):
    """Adds ``record["passages"]``, the `top_k` best passages of the index at `path` for ``record[field]``.

    A passage is a dict with ``id, title, text, score, start, end, metadata``. The vector in ``record[vector]`` is used
    if there is one (see `Embed`), and dropped unless `keep_vector`, since nobody wants it in the output; otherwise the
    question is embedded here, one at a time. `model` may be given to make sure that the index was built with it.
    """

    def __init__(
        self,
        path: str | Path,
        top_k: int = 5,
        *,
        field: str = "question",
        vector: str = "vector",
        into: str = "passages",
        per_document: int = 2,
        keep_vector: bool = False,
        model: str | None = None,
    ) -> None:
        self.path = str(path)
        self.top_k = top_k
        self.field = field
        self.vector = vector
        self.into = into
        self.per_document = per_document
        self.keep_vector = keep_vector
        self.model = model
        self._index: Index | None = None

    def check(self) -> None:
        """Raise `StorageError` if there is no such index, or not a sound one."""
        self._opened().close()

    def open(self, context: OperatorContext | None = None) -> None:
        self._index = self._opened()

    def __call__(self, record: Record) -> Record:
        question = text_field(record, self.field, "Retrieve")
        if self._index is None:
            self.open()
        assert self._index is not None
        passages = self._index.search(
            question, self.top_k, vector=record.get(self.vector), per_document=self.per_document
        )
        found = {**record, self.into: passages}
        if not self.keep_vector:
            found.pop(self.vector, None)
        return found

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _opened(self) -> Index:
        index = Index(self.path)
        if self.model is not None and self.model != index.model:
            index.close()
            raise StorageError(
                "E665", "the index was built with another embedding model", at=self.path, got=index.model,
                expected=self.model, try_="build the index again (sage rag index)",
            )  # fmt: skip
        return index

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}
