"""Where sentences, list items and lines of code begin and end in a text, without changing the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a piece of text is, as far as its form tells."""

    PROSE = "prose"
    ITEM = "item"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Sentence:
    """``text[start:end]``: a sentence, a list item or heading, or a whole block of code."""

    start: int
    end: int
    kind: Kind
    paragraph: int
    """Counts up through the text; neighbours with the same number belong together."""


_ABBREVIATIONS = frozenset(
    """e.g i.e etc vs cf al fig figs no nos vol p pp ch sec eq approx ca mr mrs ms dr prof st jr sr sra inc ltd co corp
    dept ed eds jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k u.n a.m p.m ph.d""".split()  # noqa: SIM905
)
# ruff: noqa: RUF001 -- the punctuation of other scripts is meant
_SENTENCE_END = re.compile(r"[.!?…؟۔।]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[”’」』）》]*")
_LAST_WORD = re.compile(r"[\w.]+$")
_ITEM = re.compile(r"\s*(?:[-*•‣◦–·]|\(?\d{1,3}[.)]|\(?[a-z][)])\s+\S")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_CODE = re.compile(
    r"""(?:[ ]{4}|\t)\s*\S
    | \s*(?: >>>|\.\.\.(?:\s|$)|\$\s|[#]include|@\w|[})\]]+[;,]?\s*$
      | (?:import|from)\s[\w.]+(?:\s+(?:import|as)\s.*)?(?:,\s*\w+)*\s*$
      | (?:async\s+)?(?:def|class)\s+\w+.*(?::|\))\s*$ | (?:if|elif|for|while|with|except|try|else|finally)\b.*:\s*$
      | (?:return|raise|yield|assert|pass|break|continue|del|lambda|print)\b(?:\s*$|[\s(].*[\w)\]"']\s*$)
      | [\w.\[\]'", *]+\s(?:[-+*/|&]?=)\s\S.* | [\w.]+\(.*\)\s*(?:[#].*)?$ | [\[{(].*[,\]})]\s*$ | Traceback\s\()""",
    re.VERBOSE,
)
_SHORT_LINE = 56
"""A line shorter than this without punctuation at its end, before a capital, is an item or heading, not wrapped."""


def split_sentences(text: str) -> list[Sentence]:
    """The sentences of `text` in order. They cover everything in it but white space."""
    sentences: list[Sentence] = []
    for number, (start, end, kind) in enumerate(_blocks(text)):
        for first, last in _parts(text, start, end) if kind is Kind.PROSE else ((start, end),):
            sentences.append(Sentence(first, last, kind, number))
    return sentences


def _blocks(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Runs of lines that belong together, without the white space around them."""
    start = end = 0
    kind: Kind | None = None
    fenced = False
    for first, last in _lines(text):
        line = text[first:last]
        fence = _FENCE.match(line) is not None
        here = Kind.CODE if fence or fenced else _kind_of(line)
        if here is None or kind is None or _begins(kind, here, text[start:end] if kind is Kind.PROSE else "", line):
            if kind is not None:
                yield _stripped(text, start, end, kind)
            start, kind = first, here
        end = last
        fenced = fenced != fence
    if kind is not None:
        yield _stripped(text, start, end, kind)


def _begins(kind: Kind, here: Kind, before: str, line: str) -> bool:
    """Whether `line`, of kind `here`, begins a block instead of going on with the one `before` of kind `kind`."""
    if here is Kind.CODE or kind is Kind.CODE:
        return here is not kind
    if here is Kind.ITEM:
        return True
    if kind is Kind.ITEM:
        return line[:1].isupper()
    last = before[before.rfind("\n") + 1 :].rstrip()
    return len(last) < _SHORT_LINE and last[-1:].isalnum() and line.lstrip()[:1].isupper() and "," not in last


def _kind_of(line: str) -> Kind | None:
    if not line.strip():
        return None
    if _CODE.match(line):
        return Kind.CODE
    return Kind.ITEM if _ITEM.match(line) else Kind.PROSE


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, end
        start = end + 1


def _parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences of a paragraph."""
    for match in _SENTENCE_END.finditer(text, start, end):
        if _ends_sentence(text, start, match, end):
            yield start, match.end()
            start = match.end()
            while start < end and text[start].isspace():
                start += 1
    if start < end:
        yield start, end


def _ends_sentence(text: str, start: int, match: re.Match[str], end: int) -> bool:
    following = text[match.end() : min(match.end() + 4, end)].lstrip()
    if following[:1].islower():
        return False
    if not match.group().startswith("."):
        return True
    word = _LAST_WORD.search(text, max(start, match.start() - 12), match.start())
    if word is None:
        return True
    last = word.group().lower()
    initial = len(last) == 1 and last.isalpha() and text[word.start()].isupper() and last != "i"
    return not (initial or last in _ABBREVIATIONS)


def _stripped(text: str, start: int, end: int, kind: Kind) -> tuple[int, int, Kind]:
    while start < end and text[start].isspace() and kind is not Kind.CODE:
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end, kind
