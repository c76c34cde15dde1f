"""Search by words: BM25 over the passages, on tantivy."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.errors import MissingDependency

_FIELD = "text"
_HEAP_BYTES = 64 << 20
_MAX_WORD_BYTES = 80
_BM25_K1 = 1.2  # tantivy's own
_MAX_QUESTION_WORDS = 256

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
"""Scripts that put no spaces between words (or that put several words between two spaces)."""

FUNCTION_WORDS = frozenset(
    """a about after all also am an and any are aren as at be because been before being but by can cannot could did didn
    do does doesn doing don during each few for from get had has have having he her here hers him his how i if in into
    is isn it its itself just ll may me might more most must my no nor not of off on once one only or other our out over
    own re s same shall she should so some such t than that the their them then there these they this those through to
    too under until up us ve very was wasn we were what when where which while who whom whose why will with would you
    your yours""".split()  # noqa: SIM905
)
"""English words that say nothing of what a question is about. In other languages only their namesakes are lost."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, by its number, and its coverage of the question (see `sage.rag.fusion`)."""

    passage: int
    coverage: float


def write_lexicon(passages: Iterable[str], folder: Path) -> None:
    """Index `passages`, numbered from 0, in the new directory `folder`."""
    tantivy = _tantivy()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(_FIELD, tokenizer_name="sage", index_option="freq")
    builder.add_integer_field("passage", stored=True)
    folder.mkdir()
    index = tantivy.Index(builder.build(), path=str(folder))
    index.register_tokenizer("sage", _analyzer(tantivy))
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
    for number, text in enumerate(passages):
        writer.add_document(tantivy.Document(text=spaced(text), passage=number))
    writer.commit()
    writer.wait_merging_threads()
    readable = folder.stat().st_mode & 0o666  # as the umask will have it: tantivy's files are the owner's alone
    for file in folder.iterdir():
        if file.name.endswith(".lock"):
            file.unlink()
        else:
            file.chmod(readable)


class Lexicon:
    """An index that `write_lexicon` made, opened for reading. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        tantivy = _tantivy()
        self._tantivy = tantivy
        self._words = _analyzer(tantivy, stemming=False)
        self._stems = _analyzer(tantivy)
        # tantivy wants to write a lock file beside the data, and ours may be on a read-only disk or another user's:
        # it gets a folder of its own with links to the files. It goes on writing there for a moment after opening.
        self._links = tempfile.TemporaryDirectory(prefix="sage-index-", ignore_cleanup_errors=True)
        for file in folder.iterdir():
            Path(self._links.name, file.name).symlink_to(file.resolve())
        self._index = tantivy.Index.open(self._links.name)
        self._index.config_reader(reload_policy="manual")
        self._searcher = self._index.searcher()

    def search(self, question: str, limit: int) -> list[Hit]:
        """The passages that share most with `question`, best first; none if it has no word that is known."""
        idf = {stem: self._idf(stem) for stem in self._stems_of(question)}
        best_possible = sum(idf.values()) * (_BM25_K1 + 1)
        if best_possible <= 0:
            return []
        query = self._tantivy.Query
        words = [
            (self._tantivy.Occur.Should, query.term_query(self._index.schema, _FIELD, stem, index_option="freq"))
            for stem in idf
        ]
        found = self._searcher.search(query.boolean_query(words), limit)
        return [Hit(self._searcher.doc(place)["passage"][0], score / best_possible) for score, place in found.hits]

    def close(self) -> None:
        """Let go of the files."""
        self._links.cleanup()

    def _stems_of(self, question: str) -> list[str]:
        words = self._words.analyze(spaced(question))
        telling = [word for word in words if word not in FUNCTION_WORDS] or words
        return list(dict.fromkeys(self._stems.analyze(" ".join(telling))))[:_MAX_QUESTION_WORDS]

    def _idf(self, stem: str) -> float:
        frequency = self._searcher.doc_freq(_FIELD, stem)
        return math.log(1 + (self._searcher.num_docs - frequency + 0.5) / (frequency + 0.5))


def _analyzer(tantivy: Any, *, stemming: bool = True) -> Any:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(_MAX_WORD_BYTES)).filter(tantivy.Filter.lowercase())
    return (builder.filter(tantivy.Filter.stemmer("english")) if stemming else builder).build()


def spaced(text: str) -> str:
    """`text` with pairs of neighbouring characters as words where a script does not separate its words."""
    return text if text.isascii() else _UNSPACED.sub(_pairs, text)


def _pairs(match: re.Match[str]) -> str:
    run = match.group()
    return f" {' '.join(run[i : i + 2] for i in range(max(1, len(run) - 1)))} "


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError as error:
        raise MissingDependency("tantivy", "rag", "an index") from error
    return tantivy
