"""Extract: answers without a language model, by quoting the passages."""

from __future__ import annotations

from typing import Any

from sage.flow.operator import Operator, OperatorContext
from sage.rag.embed import Record, text_field
from sage.rag.embedder import Embedder, check_model, open_embedder
from sage.rag.model import MODEL_NAME
from sage.rag.prompt import passages_of
from sage.rag.quotes import find_quotation

NO_ANSWER = "No passage answers this."
DEFAULT_MIN_EVIDENCE = 0.5


class Extract(Operator):
    """Adds ``answer`` (or what `into` says), ``sources`` and ``answered_by: "extractive"``: the best sentences of the
    passages, quoted.

    The answer is made of quotes and the numbers of the passages that they stand in, like [1]; nothing is reworded, only
    the line breaks inside prose are taken out.
    `sources` says for each quote ``number, id, title, start, end, quote``, with offsets in the document. If even the
    best sentence has less evidence than `min_evidence`, the answer says that there is none and `sources` is empty.
    """

    def __init__(
        self,
        *,
        field: str = "question",
        passages: str = "passages",
        into: str = "answer",
        max_sentences: int = 3,
        min_evidence: float = DEFAULT_MIN_EVIDENCE,
        model: str = MODEL_NAME,
    ) -> None:
        self.field = field
        self.passages = passages
        self.into = into
        self.max_sentences = max_sentences
        self.min_evidence = min_evidence
        self.model = model
        self._embedder: Embedder | None = None

    def check(self) -> None:
        """Raise the `SageError` that `open` would raise, without loading the model."""
        check_model(self.model)

    def open(self, context: OperatorContext | None = None) -> None:
        self._embedder = open_embedder(self.model)

    def __call__(self, record: Record) -> Record:
        question = text_field(record, self.field, "Extract")
        passages = passages_of(record, self.passages, "Extract")
        if self._embedder is None:
            self.open()
        assert self._embedder is not None
        found = find_quotation(question, passages, self._embedder, self.max_sentences)
        quotes = found.quotes if found.evidence >= self.min_evidence else ()
        sources = []
        for quote in quotes:
            passage = passages[quote.passage]
            offset = passage.get("start", 0)
            sources.append(
                {
                    "number": quote.passage + 1,
                    "id": passage.get("id"),
                    "title": passage.get("title", ""),
                    "start": offset + quote.start,
                    "end": offset + quote.end,
                    "quote": quote.text,
                }
            )
        answer = "\n".join(f"{quote.shown} [{quote.passage + 1}]" for quote in quotes) or NO_ANSWER
        return {**record, self.into: answer, "sources": sources, "answered_by": "extractive"}

    def close(self) -> None:
        self._embedder = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embedder": None}
