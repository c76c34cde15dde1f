"""A stream of messages in both directions that arrives once and in order, whatever the transport below loses, repeats
or swaps, as long as both ends live. A pure state machine: no socket, no clock, no thread.

Messages are numbered from 1. Every header tells up to which number the other direction has arrived. What is not
acknowledged is kept, and all of it is sent again when the other end misses a number (``AGAIN``), or answers a ``PING``
without having received what was sent before it. So nothing is repeated because somebody is merely slow.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from sage.queues.remote.transport import Part, Parts

VERSION = 2
ID_BYTES = 8
NOBODY = bytes(ID_BYTES)
"""The life of a server that a client does not know yet."""
_HEADER = struct.Struct(f"<2sBB{ID_BYTES}s{ID_BYTES}sQQ")
_MAGIC = b"SQ"
_MARKS = 16
ACKNOWLEDGE_BYTES = 4 * 1024 * 1024
"""Who received so much and had nothing to send meanwhile tells that it arrived."""


class Sort(IntEnum):
    """What a message is to the stream."""

    MESSAGE = 0
    PING = 1
    PONG = 2
    """`number` is that of the ping; 0: an acknowledgement that nobody asked for."""
    AGAIN = 3
    """The receiver misses what follows `upto`."""
    BYE = 4
    """The sender ends."""
    GONE = 5
    """The receiver does not know this session, or is another life of the server."""


_SORTS = tuple(Sort)


class Header(NamedTuple):
    """The beginning of every message."""

    sort: Sort
    session: bytes
    life: bytes
    number: int
    upto: int

    def pack(self) -> bytes:
        return _HEADER.pack(_MAGIC, VERSION, *self)


def split(part: Part) -> tuple[Header, memoryview] | None:
    """The header and what follows it; None for anything that is not of this version and form."""
    if len(part) < _HEADER.size:
        return None
    magic, version, sort, *rest = _HEADER.unpack_from(part)
    if magic != _MAGIC or version != VERSION or sort >= len(_SORTS):
        return None
    return Header(_SORTS[sort], *rest), memoryview(part)[_HEADER.size :]


class _Kept(NamedTuple):
    number: int
    body: bytes
    buffers: Parts
    size_bytes: int


class _Mark(NamedTuple):
    ping: int
    sent: int
    at: float


class Stream:
    """One end. Everything that it returns is to be sent, in order."""

    def __init__(self, session: bytes, life: bytes = NOBODY) -> None:
        self.session = session
        self.life = life
        self.unacknowledged_bytes = 0
        """Sent, and perhaps not arrived."""
        self.received_bytes = 0
        """Received, and not acknowledged."""
        self.round_trip_s: float | None = None
        """The shortest that was seen lately."""
        self._kept: deque[_Kept] = deque()
        self._sent = self._received = self._pings = 0
        self._missed: int | None = None  # after which number something was missed, and that was said
        self._marks: deque[_Mark] = deque(maxlen=_MARKS)

    @property
    def pending(self) -> bool:
        """Whether something was sent that perhaps did not arrive."""
        return bool(self._kept)

    def send(self, body: bytes, buffers: Parts = ()) -> list[Part]:
        """A new message."""
        self._sent += 1
        kept = _Kept(self._sent, body, buffers, len(body) + sum(len(buffer) for buffer in buffers))
        self._kept.append(kept)
        self.unacknowledged_bytes += kept.size_bytes
        return self._wire(kept)

    def ping(self, now: float) -> list[Part]:
        """Ask what has arrived."""
        self._pings += 1
        self._marks.append(_Mark(self._pings, self._sent, now))
        return self.tell(Sort.PING, self._pings)

    def tell(self, sort: Sort, number: int = 0) -> list[Part]:
        """A message that is not repeated; it acknowledges, as all do."""
        self.received_bytes = 0
        return [Header(sort, self.session, self.life, number, self._received).pack()]

    def receive(self, header: Header, size_bytes: int, now: float) -> tuple[bool, Iterable[list[Part]]]:
        """Whether the message that came with `header` is the next one, and what to send because of it."""
        self._acknowledge(header.upto)
        match header.sort:
            case Sort.MESSAGE:
                return self._receive_message(header.number, size_bytes)
            case Sort.PING:
                return False, [self.tell(Sort.PONG, header.number)]
            case Sort.PONG:
                return False, self._receive_pong(header.number, now)
            case Sort.AGAIN:
                return False, self._repeat()
        return False, ()

    def _receive_message(self, number: int, size_bytes: int) -> tuple[bool, Iterable[list[Part]]]:
        if number == self._received + 1:
            self._received = number
            self.received_bytes += size_bytes
            return True, ()
        if number <= self._received or self._missed == self._received:
            return False, ()
        self._missed = self._received
        return False, [self.tell(Sort.AGAIN)]

    def _receive_pong(self, number: int, now: float) -> Iterable[list[Part]]:
        mark = next((mark for mark in self._marks if mark.ping == number), None)
        if mark is None:
            return ()
        trip_s = now - mark.at
        self.round_trip_s = min(trip_s, 2 * self.round_trip_s) if self.round_trip_s else trip_s
        is_lost = self._kept and self._kept[0].number <= mark.sent
        return self._repeat() if is_lost else ()

    def _acknowledge(self, upto: int) -> None:
        while self._kept and self._kept[0].number <= upto:
            self.unacknowledged_bytes -= self._kept.popleft().size_bytes

    def _repeat(self) -> Iterator[list[Part]]:
        self._marks.clear()
        return map(self._wire, list(self._kept))

    def _wire(self, kept: _Kept) -> list[Part]:
        header = Header(Sort.MESSAGE, self.session, self.life, kept.number, self._received)
        self.received_bytes = 0
        return [header.pack() + kept.body, *kept.buffers]
