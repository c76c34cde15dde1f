"""The table of an index's passages, and the search in it. Numbers only: texts stand in the documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage.rag.fusion import fuse, trust_in_similarity
from sage.rag.lexical import Hit

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]
    Integers = np.ndarray[Any, np.dtype[np.int64]]

Method = Literal["fused", "lexical", "dense"]


def write_passages(folder: Path, spans: Sequence[tuple[int, int, int]], vectors: Floats, owners: Sequence[int]) -> None:
    """Save the passages (document, start, end), ascending, and the vectors of those that have one (`owners`)."""
    import numpy as np

    np.save(folder / "passages.npy", np.array(spans, np.int64))
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "vector_passages.npy", np.array(owners, np.int64))
    np.save(folder / "centre.npy", vectors.mean(axis=0, dtype=np.float64).astype(np.float32))


class PassageTable:
    """What `write_passages` wrote, mapped into memory and searched in full.

    Comparing a question with every vector is exact and takes 5 ms for 50,000 vectors on one core. An approximate
    index of that many took 16 s to build, and missed 2% to 18% of the hundred nearest.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._spans: Integers = np.load(folder / "passages.npy", allow_pickle=False)
        self._vectors: Floats = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        self._centre: Floats = np.load(folder / "centre.npy", allow_pickle=False)
        owners: Integers = np.load(folder / "vector_passages.npy", allow_pickle=False)
        # A *place* is a document's position among those that have passages. Its passages (and vectors) are neighbours.
        _, self._first, self._counts = np.unique(self._spans[:, 0], return_index=True, return_counts=True)
        self._place_of = np.repeat(np.arange(len(self._first)), self._counts)
        _, self._first_vector, self._vector_counts = np.unique(
            self._place_of[owners], return_index=True, return_counts=True
        )

    def span(self, passage: int) -> tuple[int, int, int]:
        """Document, start and end of a passage."""
        document, start, end = self._spans[passage].tolist()
        return document, start, end

    def search(
        self, vector: Floats | None, hits: Sequence[Hit], method: Method, top_k: int, per_document: int
    ) -> list[tuple[int, float]]:
        """The best passages and their scores. Documents are ranked first, then each contributes its best passages."""
        import numpy as np

        similarity = self._vectors @ vector if vector is not None and method != "lexical" and vector.any() else None
        if method == "dense":
            hits = ()
        if similarity is None and not hits:
            return []
        trust = 1.0 if vector is None else trust_in_similarity(float(self._centre @ vector))
        scores = self._document_scores(similarity, hits, method, trust)
        best = np.argpartition(-scores, top_k - 1)[:top_k] if top_k < len(scores) else np.arange(len(scores))
        coverage = {hit.passage: hit.coverage for hit in hits}
        found: list[tuple[float, int]] = []
        for place in best.tolist():
            if similarity is None and not scores[place] > 0:
                continue
            mine = self._passage_scores(place, similarity, coverage, method, trust)
            order = np.argsort(-mine, kind="stable")[:per_document].tolist()
            first = int(self._first[place])
            found.append((float(scores[place]), first + order[0]))
            found += ((float(mine[i]), first + i) for i in order[1:])
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        return [(passage, score) for score, passage in found[:top_k]]

    def _document_scores(self, similarity: Floats | None, hits: Sequence[Hit], method: Method, trust: float) -> Floats:
        import numpy as np

        coverage = np.zeros(len(self._first), np.float32)
        places = self._place_of[[hit.passage for hit in hits]] if hits else np.array([], np.int64)
        np.maximum.at(coverage, places, np.array([hit.coverage for hit in hits], np.float32))
        if similarity is None:
            return coverage
        similar: Floats = np.maximum.reduceat(similarity, self._first_vector)
        return similar if method == "dense" else fuse(similar, coverage, (self._vector_counts, self._counts), trust)

    def _passage_scores(
        self, place: int, similarity: Floats | None, coverage: dict[int, float], method: Method, trust: float
    ) -> Floats:
        """The scores of a document's own passages, by the formula that ranks documents."""
        import numpy as np

        first, count = int(self._first[place]), int(self._counts[place])
        covered = np.array([coverage.get(first + i, 0.0) for i in range(count)], np.float32)
        if similarity is None:
            return covered
        embedded = int(self._vector_counts[place])
        begin = int(self._first_vector[place])
        mine = similarity[begin : begin + embedded]
        similar = np.full(count, mine.min(), np.float32)  # no better guess for the passages without a vector
        similar[:embedded] = mine
        counts = (self._vector_counts[place : place + 1], self._counts[place : place + 1])
        return similar if method == "dense" else fuse(similar, covered, counts, trust)
