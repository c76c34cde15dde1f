"""Cutting documents into chunks that fit an embedding model, along paragraphs and sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sage.errors import PipelineError
from sage.rag.sentences import split_sentences

Measure = Callable[[Sequence[str]], Sequence[int]]
"""Gives the size of each of several texts, for example in tokens of an embedding model."""

_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿가-힯]|[^\W぀-ヿ㐀-鿿豈-﫿가-힯]+")
_MAX_ATOM_CHARS = 8_000
"""Longer sentences are cut before they are measured, so that no measure ever sees a text of megabytes."""
_JOINERS = "\u200d\ufe0e\ufe0f"


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A part of a document: ``document[start:end] == text``."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Atom:
    start: int
    end: int
    size: int
    paragraph: int


def count_words(texts: Sequence[str]) -> list[int]:
    """Words of each text; in scripts without spaces every character counts as one."""
    return [sum(1 for _ in _WORD.finditer(text)) for text in texts]


def chunk(text: str, max_size: int = 160, overlap: int = 0, measure: Measure = count_words) -> list[TextChunk]:
    """Cut `text` into chunks of at most `max_size` (in words, or as `measure` counts).

    Sentences stay whole unless one alone is too large, and a paragraph that fits into a chunk of its own is not
    torn apart for filling up the one before. A chunk repeats the last sentences of its predecessor as far as they
    fit into `overlap`. A text without words gives no chunk.
    """
    if max_size < 1 or not 0 <= overlap < max_size:
        raise PipelineError(
            "E260", "the sizes of chunks make no sense", at="chunk(...)", got=f"max_size={max_size}, overlap={overlap}",
            expected="0 <= overlap < max_size",
        )  # fmt: skip
    atoms = list(_atoms(text, max_size, measure))
    chunks: list[TextChunk] = []
    first = 0
    while first < len(atoms):
        stop = _fill(atoms, first, max_size)
        start, end = atoms[first].start, atoms[stop - 1].end
        chunks.append(TextChunk(text[start:end], start, end))
        first = _step_back(atoms, first, stop, overlap) if stop < len(atoms) else stop
    return chunks


def _fill(atoms: Sequence[_Atom], first: int, max_size: int) -> int:
    """Where a chunk that begins with atom `first` stops."""
    total = 0
    stop = first
    while stop < len(atoms) and total + atoms[stop].size <= max_size:
        total += atoms[stop].size
        stop += 1
    if stop == len(atoms) or stop <= first + 1:
        return max(stop, first + 1)
    torn = atoms[stop].paragraph
    begin = stop
    while begin > first and atoms[begin - 1].paragraph == torn:
        begin -= 1
    tail = sum(atom.size for atom in atoms[begin:stop])
    return begin if begin > first and tail <= max_size // 3 else stop


def _step_back(atoms: Sequence[_Atom], first: int, stop: int, overlap: int) -> int:
    begin = stop
    total = 0
    while begin - 1 > first and total + atoms[begin - 1].size <= overlap:
        begin -= 1
        total += atoms[begin].size
    return begin


def _atoms(text: str, max_size: int, measure: Measure) -> Iterator[_Atom]:
    """Sentences, or parts of a sentence where it alone is larger than `max_size`; those without size are left out."""
    pieces: list[tuple[int, int, int]] = []
    for sentence in split_sentences(text):
        pieces += ((start, end, sentence.paragraph) for start, end in _cut(text, sentence.start, sentence.end))
    sizes = measure([text[start:end] for start, end, _ in pieces])
    for (start, end, paragraph), size in zip(pieces, sizes, strict=True):
        if size > max_size:
            yield from _halves(text, (start, end), paragraph, max_size, measure)
        elif size:
            yield _Atom(start, end, size, paragraph)


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > _MAX_ATOM_CHARS:
        middle = _gap_near(text, start, end, start + _MAX_ATOM_CHARS // 2)
        yield start, middle
        start = middle
    yield start, end


def _halves(text: str, span: tuple[int, int], paragraph: int, max_size: int, measure: Measure) -> Iterator[_Atom]:
    start, end = span
    if end - start < 2:
        yield _Atom(start, end, max_size, paragraph)
        return
    middle = _gap_near(text, start, end, (start + end) // 2)
    spans = ((start, middle), (middle, end))
    for (first, last), size in zip(spans, measure([text[a:b] for a, b in spans]), strict=True):
        if size > max_size and last - first < end - start:
            yield from _halves(text, (first, last), paragraph, max_size, measure)
        elif size:
            yield _Atom(first, last, size, paragraph)


def _gap_near(text: str, start: int, end: int, middle: int) -> int:
    """A place at or near `middle` where cutting does least harm: after white space, or not inside a letter."""
    reach = max(1, (end - start) // 4)
    for distance in range(min(reach, 200)):
        for place in (middle - distance, middle + distance):
            if start < place < end and text[place - 1].isspace():
                return place
    place = middle
    while place < end - 1 and (
        unicodedata.combining(text[place]) or text[place] in _JOINERS or text[place - 1] in _JOINERS
    ):
        place += 1
    return place
