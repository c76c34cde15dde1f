"""A row of the journal, with its checksum; and the count of all rows, which stands in one of its own."""

from __future__ import annotations

import json
import struct
from enum import StrEnum
from typing import Any, NamedTuple
from zlib import crc32

_MODULO = 1 << 64

Head = dict[str, list[int]]
"""By kind: how many rows there are, and the sum of their checksums."""


class RowKind(StrEnum):
    """What a row is about."""

    HEAD = "head"
    """How many rows of each kind there are, and the sum of their checksums."""
    META = "meta"
    """What the job is, and where it stands."""
    POSITION = "position"
    """By partition: what of it is finished."""
    OUTPUT = "output"
    """By sink: how far its output is safe."""
    APPLIED = "applied"
    """Ids of records of unfinished stretches that a sink or a reduction has taken up."""
    STATE = "state"
    """By reduction and key: the value."""
    COLLECTED = "collected"
    """Records that were collected in memory."""
    RESULT = "result"
    """By step key: what a call gave."""
    ADOPTED = "adopted"
    """By step key: that the result was not paid by this job, but found among those that jobs share."""
    DEATHS = "deaths"
    """By step key: how often a process died while the call was in flight."""
    BILL = "bill"
    """By run and step: calls made, kept, reused, failed."""


class Change(NamedTuple):
    """A row to be written; without a value, to be removed; with `once`, only if there is none."""

    kind: RowKind
    key: bytes
    value: bytes | None
    once: bool = False


class Row(NamedTuple):
    number: int
    kind: str
    key: bytes
    value: bytes
    crc: int

    @property
    def is_whole(self) -> bool:
        return self.crc == checksum(self.kind, self.key, self.value)


def checksum(kind: str, key: bytes, value: bytes) -> int:
    """Over all of a row, with the lengths, so that no byte can pass for one of its neighbour."""
    name = kind.encode()
    return crc32(value, crc32(key, crc32(struct.pack("<III", len(name), len(key), len(value)) + name)))


def row_of(columns: tuple[Any, ...]) -> Row:
    number, kind, key, value, crc = columns
    if not (isinstance(kind, str) and isinstance(key, bytes) and isinstance(value, bytes)):
        raise TypeError(f"row {number} has columns of other types")
    return Row(number, kind, key, value, crc)


def count(head: Head, kind: str, crc: int, rows: int) -> None:
    entry = head.setdefault(str(kind), [0, 0])
    entry[0] += rows
    entry[1] = (entry[1] + rows * crc) % _MODULO


def packed(head: Head) -> bytes:
    return json.dumps(head, sort_keys=True).encode()
