"""Embed: texts into vectors, as a step of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sage.errors import RecordError
from sage.flow.operator import Operator, OperatorContext
from sage.rag.embedder import Embedder, check_model, open_embedder
from sage.rag.model import MODEL_NAME

Record = dict[str, Any]


class Embed(Operator):
    """Adds the vector of a record's text: ``record[into]`` from ``record[field]``. Takes lists of records.

    The vector is a numpy array of float32, of length 1. Embedding never downloads: `sage rag model install` does.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"batch_size": 32}

    def __init__(self, field: str = "question", into: str = "vector", *, model: str = MODEL_NAME) -> None:
        self.field = field
        self.into = into
        self.model = model
        self._embedder: Embedder | None = None

    def check(self) -> None:
        """Raise the `SageError` that `open` would raise, without loading the model."""
        check_model(self.model)

    def open(self, context: OperatorContext | None = None) -> None:
        self._embedder = open_embedder(self.model)

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        if self._embedder is None:
            self.open()
        assert self._embedder is not None
        texts = [text_field(record, self.field, "Embed") for record in records]
        vectors = self._embedder.encode(texts)
        return [{**record, self.into: vector} for record, vector in zip(records, vectors, strict=True)]

    def close(self) -> None:
        self._embedder = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embedder": None}


def text_field(record: Any, field: str, operator: str) -> str:
    """``record[field]``; raises `RecordError` E461 if that is not a text."""
    text = checked(record, operator).get(field)
    if not isinstance(text, str):
        raise RecordError(
            "E461", "the record has no such text", at=f"{operator}, key {field!r}", got=text, expected="a text"
        )
    return text


def checked(record: Any, operator: str) -> Record:
    """`record`; raises `RecordError` E461 if that is not a dict."""
    if not isinstance(record, dict):
        raise RecordError("E461", f"{operator} takes dicts", got=record)
    return record
