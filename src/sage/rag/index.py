"""An index on disk, opened for search. Any number of threads and processes may read one; they share its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from sage.errors import PipelineError, RecordError
from sage.rag.build import BuildOptions, IndexSummary, build_index
from sage.rag.documents import DocumentReader, sound_text
from sage.rag.embedder import Embedder, open_embedder
from sage.rag.lexical import Lexicon
from sage.rag.manifest import read_manifest
from sage.rag.passages import Method, PassageTable

if TYPE_CHECKING:
    import numpy as np

    Vector = np.ndarray[Any, np.dtype[np.float32]]

MAX_TOP_K = 1_000
_LEXICAL_HITS = 200


class Passage(TypedDict):
    """A part of a document: ``text`` is ``document_text[start:end]``."""

    id: str
    title: str
    text: str
    score: float
    start: int
    end: int
    metadata: dict[str, Any]


class Index:
    """What `build_index` has built. Opening it reads and checks all of it once.

    Raises `StorageError` (E662 to E664) if it is not there, damaged, or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        self.model = manifest.model
        self.dimensions = manifest.dimensions
        self.document_count = manifest.documents
        self._table = PassageTable(self.path)
        self._lexicon = Lexicon(self.path / "lexical")
        self._documents = DocumentReader(self.path)
        self._embedder: Embedder | None = None
        self._loading = threading.Lock()

    @staticmethod
    def build(
        documents: Iterable[Mapping[str, Any]], path: str | Path, **options: Unpack[BuildOptions]
    ) -> IndexSummary:
        """Build the index at `path` of `documents`: see `sage.rag.build.build_index`."""
        return build_index(documents, path, **options)

    def embed(self, question: str) -> Vector:
        """The vector of `question`, by the model that the index was built with; loads it at the first call."""
        with self._loading:
            if self._embedder is None:
                self._embedder = open_embedder(self.model)
        vector: Vector = self._embedder.encode([question])[0]
        return vector

    def search(
        self,
        question: str,
        top_k: int = 5,
        *,
        vector: Vector | None = None,
        per_document: int = 2,
        method: Method = "fused",
    ) -> list[Passage]:
        """The best passages for `question`, best first, at most `per_document` of one document.

        `vector` saves embedding the question, if that was done before with the same model (`RecordError` E462 if it
        cannot have been). A question without a word finds nothing.
        """
        if not 1 <= top_k <= MAX_TOP_K or per_document < 1:
            got = f"top_k={top_k}, per_document={per_document}"
            raise PipelineError("E265", "not a number of passages", got=got, expected=f"top_k from 1 to {MAX_TOP_K}")
        question = sound_text(question)
        if method == "lexical":
            vector = None
        else:
            vector = self.embed(question) if vector is None else self._checked(vector)
        hits = [] if method == "dense" else self._lexicon.search(question, _LEXICAL_HITS)
        found = self._table.search(vector, hits, method, top_k, per_document)
        return [self._passage(number, score) for number, score in found]

    def close(self) -> None:
        """Let go of the files."""
        self._documents.close()
        self._lexicon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, vector: Vector) -> Vector:
        import numpy as np

        given = np.asarray(vector, np.float32)
        if given.shape != (self.dimensions,) or not np.isfinite(given).all():
            expected = f"{self.dimensions} finite numbers, made by {self.model}"
            raise RecordError(
                "E462", "the vector does not fit the index", got=f"shape {given.shape}", expected=expected
            )
        return given

    def _passage(self, number: int, score: float) -> Passage:
        place, start, end = self._table.span(number)
        document = self._documents[place]
        return {
            "id": document.id,
            "title": document.title,
            "text": document.text[start:end],
            "score": round(score, 4),
            "start": start,
            "end": end,
            "metadata": document.metadata,
        }
