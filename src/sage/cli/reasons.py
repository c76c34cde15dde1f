"""Why records failed, put together: what kinds of dead letters a file has, the most frequent first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.errors import shorten
from sage.runtime.letters import lines

MOST_KINDS = 3
MOST_LETTERS = 100_000
"""Looked at; it takes a moment for so many."""
_CODE = re.compile(r"E\d{3} ")


class _Head(msgspec.Struct, frozen=True):
    """What of a letter counts here."""

    step: str
    reason: str


@dataclass
class Kind:
    """Letters of one step with the same code, or the same exception."""

    step: str
    example: str
    count: int = 0


def kinds_of(file: Path) -> list[Kind]:
    """The kinds of the letters in `file`, of the first `MOST_LETTERS`; none if it cannot be read."""
    kinds: dict[tuple[str, str], Kind] = {}
    for head in _heads(file):
        end = 4 if _CODE.match(head.reason) else head.reason.find(":")
        kind = kinds.setdefault((head.step, head.reason[:end]), Kind(head.step, head.reason))
        kind.count += 1
    return sorted(kinds.values(), key=lambda kind: -kind.count)


def told(kinds: list[Kind], width: int) -> Iterator[str]:
    """A line for each of the most frequent."""
    for kind in kinds[:MOST_KINDS]:
        yield shorten(f"    {kind.count:,} at {kind.step}: {kind.example}", width)
    if len(kinds) > MOST_KINDS:
        others = sum(kind.count for kind in kinds[MOST_KINDS:])
        yield f"    {others:,} for other reasons"


def _heads(file: Path) -> Iterator[_Head]:
    decoder = msgspec.json.Decoder(_Head)
    try:
        with file.open("rb") as letters:
            for _, line in zip(range(MOST_LETTERS), lines(letters), strict=False):
                yield decoder.decode(line.text)
    except (OSError, msgspec.MsgspecError):
        return
