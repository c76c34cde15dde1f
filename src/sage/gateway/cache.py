"""Answers that are given again to who asks the very same. Pure: no I/O, no clock, times come in as arguments.

Only what the same request would say once more is kept: answers at temperature 0 or with a seed, and embeddings. A
tenant is never given what another one paid for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from sage.gateway.requests import Asked, whole_document

OVERHEAD_BYTES = 300
"""Of an entry, beside the answer itself."""
LARGEST_SHARE = 8
"""An answer larger than this part of the cache is not kept."""

Key = bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole answer as the client got it."""

    content_type: str
    body: bytes
    tokens: int
    """That it cost."""


class Copy:
    """Of an answer that passes, as long as it is not larger than `largest_bytes`."""

    def __init__(self, largest_bytes: int) -> None:
        self._left_bytes = largest_bytes
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        self._left_bytes -= len(piece)
        if self._left_bytes >= 0:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    @property
    def whole(self) -> bytes | None:
        """None if it was too large."""
        return b"".join(self._pieces) if self._left_bytes >= 0 else None


class AnswerCache:
    """The latest answers in `most_bytes`, each for at most `ttl_s`."""

    def __init__(self, most_bytes: int, ttl_s: float) -> None:
        self._most_bytes = most_bytes
        self._ttl_s = ttl_s
        self._kept: OrderedDict[Key, tuple[float, Kept]] = OrderedDict()
        self.size_bytes = 0

    def copy(self) -> Copy:
        """For an answer that may be kept."""
        return Copy(self._most_bytes // LARGEST_SHARE)

    def get(self, key: Key, now: float) -> Kept | None:
        until, kept = self._kept.get(key, (now, None))
        if kept is None:
            return None
        if until <= now:
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: Key, kept: Kept, now: float) -> None:
        """In place of what is there; the least recently used go for it. Its body is from a `copy`."""
        self._forget(key)
        self._kept[key] = (now + self._ttl_s, kept)
        self.size_bytes += len(kept.body) + OVERHEAD_BYTES
        while self.size_bytes > self._most_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.size_bytes -= len(found[1].body) + OVERHEAD_BYTES


def key_of(asked: Asked, tenant: str) -> Key | None:
    """The same for requests that mean the same; None for one that may be answered otherwise the next time.
    Raises `Refusal`."""
    document = whole_document(asked.body)
    sampled = asked.path != "/embeddings" and document.get("temperature") != 0
    if sampled and not isinstance(document.get("seed"), int):
        return None
    meaning = [tenant, asked.path, asked.usage_wanted, document]
    return hashlib.sha256(msgspec.json.encode(meaning, order="deterministic")).digest()
