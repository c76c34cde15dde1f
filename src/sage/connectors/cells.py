"""Single values as a table stores them; what it would change or drop without a word is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import RecordError

_INTEGERS = range(-(1 << 63), 1 << 63)


def sound_text(value: str, at: str | None = None) -> str:
    """`value`, if it can be written. Raises `RecordError` E406, as all here."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError("E406", "text with a lone surrogate", at=at, got=value) from error
    return value


def _integer(value: int, at: str) -> int:
    if value not in _INTEGERS:
        raise RecordError("E406", "the number has more than 64 bits", at=at, got=value, try_="str(value)")
    return value


def _real(value: float, at: str) -> float:
    if math.isnan(value):
        raise RecordError("E406", "not a number, which may be stored as NULL", at=at, got=value, try_="None")
    return value


CHECKED: Mapping[type, Callable[[Any, str], Any]] = {str: sound_text, int: _integer, float: _real}
"""By type: takes a value and its column, and gives the value or refuses it."""
