"""Which sentences of some passages answer a question best, and what to quote of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.rag.embedder import Embedder
from sage.rag.lexical import FUNCTION_WORDS, spaced
from sage.rag.sentences import Kind, Sentence, split_sentences

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]

MAX_CANDIDATES = 60
"""Sentences looked at, those of the best passages first: it bounds the time."""

_OVERLAP_WEIGHT = 0.5
_MARGIN = 0.15
"""A further sentence is quoted if it is at most so much worse than the best."""
_PENALTIES = {Kind.PROSE: 0.0, Kind.ITEM: 0.06, Kind.CODE: 0.12}
_FRAGMENT_PENALTY = 0.15
_FRAGMENT_WORDS = 3
_SAME_WORDS = 0.8
_MAX_BLOCK_CHARS = 600
_SUFFIX = re.compile(r"(?:ings?|ed|es|s|ly|ions?|e)$")
_WORD = re.compile(r"\w+")
_LEANING = re.compile(r"(?:it|they|this|that|these|those|he|she|but|so|however|then|also|thus)\b", re.IGNORECASE)
_VERDICT_WORDS = 4


@dataclass(frozen=True, slots=True)
class Quote:
    """``passages[passage]["text"][start:end] == text``: neighbouring sentences, quoted without a gap."""

    passage: int
    start: int
    end: int
    text: str
    shown: str
    """The same words, with the line breaks inside prose taken out."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """What to quote, in reading order, and the evidence that it answers: about 0.3 by chance, 1 for a good answer."""

    quotes: tuple[Quote, ...]
    evidence: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    passage: int
    index: int
    sentence: Sentence
    text: str


def find_quotation(
    question: str, passages: Sequence[Mapping[str, Any]], embedder: Embedder, max_sentences: int
) -> Quotation:
    """The best one to `max_sentences` sentences of `passages`; no quotes if there is no sentence at all.

    A verdict ("Yes.") takes what follows it along, a sentence that ends in a colon the list or code that it announces,
    and one that begins with "It" the one before it.
    """
    split = [split_sentences(passage["text"]) for passage in passages]
    candidates = [
        _Candidate(number, index, sentence, passages[number]["text"][sentence.start : sentence.end])
        for number, sentences in enumerate(split)
        for index, sentence in enumerate(sentences)
    ][:MAX_CANDIDATES]
    if not candidates:
        return Quotation((), 0.0)
    evidence = _evidence(question, candidates, embedder)
    worth = [
        value + _prior(candidate, passages) for value, candidate in zip(evidence.tolist(), candidates, strict=True)
    ]
    order = sorted(range(len(candidates)), key=lambda i: -worth[i])
    chosen: set[tuple[int, int]] = set()
    said: list[str] = []
    for i in order:
        if worth[i] < worth[order[0]] - _MARGIN or len(chosen) >= max_sentences:
            break
        place = (candidates[i].passage, candidates[i].index)
        if place not in chosen and not any(_same(candidates[i].text, text) for text in said):
            said.append(candidates[i].text)
            chosen |= {place, *_companions(candidates[i], split, passages)}
    return Quotation(tuple(_runs(chosen, split, passages)), float(evidence[order[0]]))


def _evidence(question: str, candidates: Sequence[_Candidate], embedder: Embedder) -> Floats:
    """How similar each candidate is to the question, and how much of the question's rare words it has."""
    import numpy as np

    vectors = embedder.encode([question, *(candidate.text for candidate in candidates)])
    wanted = set(_stems(question))
    having = [wanted.intersection(_stems(candidate.text)) for candidate in candidates]
    frequency = Counter(stem for stems in having for stem in stems)
    weight = {stem: math.log(1 + (len(having) + 1) / (frequency[stem] + 0.5)) for stem in wanted}
    total = sum(weight.values()) or 1.0
    overlap = np.array([sum(weight[stem] for stem in stems) / total for stems in having], np.float32)
    evidence: Floats = vectors[1:] @ vectors[0] + np.float32(_OVERLAP_WEIGHT) * overlap
    echoes = [_repeats(candidate.text, wanted) for candidate in candidates]
    evidence[echoes] = 0.0  # a sentence that only repeats the question answers nothing
    return evidence


def _repeats(text: str, wanted: set[str]) -> bool:
    return text.endswith(("?", "\uff1f")) and len(set(_stems(text)) - wanted) <= 1


def _prior(candidate: _Candidate, passages: Sequence[Mapping[str, Any]]) -> float:
    """What speaks for a candidate whatever it says: the score of its passage, and that it is prose and no fragment."""
    behind = float(passages[candidate.passage].get("score", 0.0)) - float(passages[0].get("score", 0.0))
    fragment = _FRAGMENT_PENALTY if len(candidate.text.split(maxsplit=_FRAGMENT_WORDS)) <= _FRAGMENT_WORDS else 0.0
    return behind - _PENALTIES[candidate.sentence.kind] - (fragment if candidate.text.isascii() else 0.0)


def _same(text: str, other: str) -> bool:
    ours, theirs = set(_stems(text)), set(_stems(other))
    return len(ours & theirs) >= _SAME_WORDS * min(len(ours), len(theirs))


def _companions(
    candidate: _Candidate, split: Sequence[Sequence[Sentence]], passages: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int]]:
    """The neighbours without which a candidate cannot be understood."""
    number, index = candidate.passage, candidate.index
    sentences, text = split[number], passages[number]["text"]
    found = []
    before = text[sentences[index - 1].start : sentences[index - 1].end] if index else ""
    if before and len(before) <= _MAX_BLOCK_CHARS and (_LEANING.match(candidate.text) or _is_verdict(before)):
        found.append((number, index - 1))
    if candidate.text.endswith(":") or _is_verdict(candidate.text):
        found += ((number, i) for i in _announced(sentences, index))
    return found


def _is_verdict(text: str) -> bool:
    return len(text.split()) <= _VERDICT_WORDS and text[:2].lower() in ("ye", "no") and text.endswith((".", "!"))


def _announced(sentences: Sequence[Sentence], index: int) -> list[int]:
    """What `index` announces: the next sentence or block of code, or a whole list, if that is not long."""
    following = index + 1
    if following >= len(sentences):
        return []
    if sentences[following].kind is not Kind.ITEM:
        return [following] if sentences[following].end - sentences[following].start <= _MAX_BLOCK_CHARS else []
    first = sentences[following].start
    stop = following
    while (
        stop < len(sentences) and sentences[stop].kind is Kind.ITEM and sentences[stop].end - first <= _MAX_BLOCK_CHARS
    ):
        stop += 1
    return list(range(following, stop))


def _runs(
    chosen: set[tuple[int, int]], split: Sequence[Sequence[Sentence]], passages: Sequence[Mapping[str, Any]]
) -> list[Quote]:
    """The chosen sentences in reading order, neighbours joined."""
    runs: list[tuple[int, int, int]] = []  # passage, first, last
    for number, index in sorted(chosen):
        if runs and runs[-1][0] == number and runs[-1][2] == index - 1:
            runs[-1] = (number, runs[-1][1], index)
        else:
            runs.append((number, index, index))
    quotes = []
    for number, first, last in runs:
        start, end = split[number][first].start, split[number][last].end
        text = passages[number]["text"]
        shown = _shown([(text[s.start : s.end], s.kind) for s in split[number][first : last + 1]])
        quotes.append(Quote(number, start, end, text[start:end], shown))
    return quotes


def _shown(parts: Sequence[tuple[str, Kind]]) -> str:
    shown = ""
    for position, (text, kind) in enumerate(parts):
        flowing = kind is Kind.PROSE and position and parts[position - 1][1] is Kind.PROSE
        shown += (" " if flowing else "\n") + (text if kind is Kind.CODE else " ".join(text.split()))
    return shown.strip("\n")


def _stems(text: str) -> list[str]:
    words = _WORD.findall(spaced(text).lower())
    telling = [word for word in words if word not in FUNCTION_WORDS] or words
    return [_SUFFIX.sub("", word) if len(word) > 4 else word for word in telling]
