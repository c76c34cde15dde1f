"""Building an index: chunk, embed, and write it whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from sage.errors import PipelineError, SourceError
from sage.rag.chunking import chunk
from sage.rag.documents import Document, DocumentWriter
from sage.rag.embedder import Embedder, open_embedder
from sage.rag.lexical import write_lexicon
from sage.rag.manifest import FORMAT, Manifest, seal_files, write_manifest
from sage.rag.model import MODEL_NAME
from sage.rag.passages import write_passages
from sage.rag.place import replacing

if TYPE_CHECKING:
    import numpy as np

Progress = Callable[[int], None]
"""Called now and then with the number of documents that are done."""

DEFAULT_EMBEDDED = 3
_BATCH = 256
_MAX_TITLE_TOKENS = 48


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """What was built."""

    path: Path
    model: str
    documents: int
    empty: int
    """Documents without a word: kept, but nothing can find them."""
    passages: int
    vectors: int
    size_bytes: int
    seconds: float


class BuildOptions(TypedDict, total=False):
    """How an index is built."""

    model: str
    """The embedding model (`sage.rag.embedder.MODELS`)."""
    max_tokens: int
    """The largest passage, in the model's tokens; default: as much as the model reads."""
    embedded: int
    """Of each document so many passages, from its beginning, are also searched by meaning; default: 3."""
    threads: int
    """Default: one per processor."""
    progress: Progress


def build_index(
    documents: Iterable[Mapping[str, Any]], path: str | Path, **options: Unpack[BuildOptions]
) -> IndexSummary:
    """Index `documents` in the directory `path`, which appears (or is replaced) at the end, or not at all.

    Documents are dicts with ``id`` (or ``_id``), ``text``, and if they like ``title``; other keys are kept as metadata.
    They are cut into passages. All passages are searched by words, the first `embedded` of each document also by
    meaning; making vectors is what takes the time. `path` may be an index, which is replaced, but nothing else.
    """
    started = time.perf_counter()
    target = Path(path)
    embedder = open_embedder(options.get("model", MODEL_NAME))
    plan = _Plan(
        options.get("max_tokens", embedder.max_tokens), options.get("embedded", DEFAULT_EMBEDDED),
        options.get("threads") or len(os.sched_getaffinity(0)),
    )  # fmt: skip
    plan.check(embedder.max_tokens, str(target))
    with replacing(target) as work:
        builder = _Builder(embedder, work, plan)
        builder.add_all(_readable(documents), options.get("progress"))
        manifest = builder.finish()
        size_bytes = sum(seal.size_bytes for seal in manifest.files.values())
    return IndexSummary(
        target, embedder.name, manifest.documents, builder.empty, manifest.passages, manifest.vectors, size_bytes,
        time.perf_counter() - started,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Plan:
    max_tokens: int
    embedded: int
    threads: int

    def check(self, largest: int, at: str) -> None:
        if not 16 <= self.max_tokens <= largest or self.embedded < 1 or self.threads < 1:
            raise PipelineError(
                "E260", "the sizes of passages make no sense", at=at, got=self,
                expected=f"max_tokens from 16 to {largest}, embedded and threads at least 1",
            )  # fmt: skip


class _Builder:
    """An index that is being written to the directory `work`."""

    def __init__(self, embedder: Embedder, work: Path, plan: _Plan) -> None:
        self.empty = 0
        self._embedder = embedder
        self._work = work
        self._plan = plan
        self._names: set[str] = set()
        self._passages: list[tuple[int, int, int]] = []  # document, start, end
        self._texts: list[str] = []
        self._vectors: list[np.ndarray[Any, Any]] = []
        self._vector_passages: list[int] = []

    def add_all(self, documents: Iterable[Mapping[str, Any]], progress: Progress | None) -> None:
        with DocumentWriter(self._work) as store:
            for batch in _batches(self._read(documents), _BATCH):
                for document in batch:
                    store.add(document)
                self._add(batch)
                if progress is not None:
                    progress(len(self._names))
        if not self._passages:
            raise SourceError("E360", "there is nothing to index", got=f"{len(self._names)} documents without a word")

    def finish(self) -> Manifest:
        import numpy as np

        vectors = np.concatenate(self._vectors)
        write_passages(self._work, self._passages, vectors, self._vector_passages)
        write_lexicon(self._texts, self._work / "lexical")
        manifest = Manifest(
            FORMAT, self._embedder.name, self._embedder.dimensions, len(self._names), len(self._passages), len(vectors),
            seal_files(self._work),
        )  # fmt: skip
        write_manifest(manifest, self._work)
        return manifest

    def _read(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
        for number, record in enumerate(documents, 1):
            document = Document.from_record(record, at=f"document {number}")
            if document.id in self._names:
                raise SourceError("E361", "two documents have the same id", at=f"document {number}", got=document.id)
            self._names.add(document.id)
            yield document

    def _add(self, batch: list[Document]) -> None:
        first = len(self._names) - len(batch)
        title_sizes = self._embedder.count_tokens([document.title for document in batch])
        chosen: list[int] = []
        for number, (document, title_size) in enumerate(zip(batch, title_sizes, strict=True), first):
            title = document.title if title_size <= _MAX_TITLE_TOKENS else ""
            room = max(16, min(self._plan.max_tokens, self._embedder.max_tokens - 2 - (title_size if title else 0)))
            spans = [(c.start, c.end) for c in chunk(document.text, room, measure=self._embedder.count_tokens)]
            if not spans and title_size:
                spans = [(0, 0)]
            self.empty += not spans
            chosen += range(len(self._texts), len(self._texts) + min(len(spans), self._plan.embedded))
            for start, end in spans:
                self._passages.append((number, start, end))
                self._texts.append(
                    f"{document.title}\n{document.text[start:end]}" if document.title else document.text[start:end]
                )
        if chosen:
            self._vectors.append(self._embedder.encode([self._texts[i] for i in chosen], self._plan.threads))
            self._vector_passages += chosen


def _batches(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    while batch := list(islice(documents, size)):
        yield batch


def _readable(documents: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """What cannot be read is not the fault of the index."""
    try:
        yield from documents
    except OSError as error:
        raise SourceError("E362", "a document cannot be read", at=error.filename, got=error.strerror) from error
