"""What a link does to the packets that cross it, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sage.errors import UsageError


@dataclass(frozen=True)
class Link:
    """One direction between two hosts. Packets never overtake one another. Raises `UsageError` E132.

    `delay_ms` is one way; each packet takes up to `jitter_ms` more, drawn evenly; `loss` is the probability that a
    packet is dropped. With a bandwidth, a packet that would have to wait for it longer than `queue_ms` is dropped too.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    bandwidth_mbit: float | None = None
    queue_ms: float = 50.0

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "queue_ms"):
            value = getattr(self, name)
            if not 0 <= value <= 60_000:
                raise _wrong(name, value, "0 to 60000")
        if not 0 <= self.loss <= 1:
            raise _wrong("loss", self.loss, "0 to 1")
        if self.bandwidth_mbit is not None and not 0 < self.bandwidth_mbit < math.inf:
            raise _wrong("bandwidth_mbit", self.bandwidth_mbit, "more than 0, or None")


@dataclass(frozen=True)
class Crossed:
    """What one direction has carried so far: packets and bytes (with IP headers) that arrived, packets dropped."""

    packets: int
    bytes: int
    dropped: int


def _wrong(name: str, value: object, expected: str) -> UsageError:
    return UsageError("E132", "a value of a link that cannot be used", at=name, got=value, expected=expected)
