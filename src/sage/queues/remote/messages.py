"""What a client and a server say to each other: a closed set of messages, in msgpack.

A port is a number by which one client knows one queue. Items travel behind their message, as a pickle and its buffers;
whoever decodes a message learns how many parts have to follow, and has not looked into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec

from sage.errors import QueueError
from sage.queues.frames import Frame
from sage.queues.remote.transport import Part, Parts

MAX_BODY_BYTES = 4096
_MAX_TEXT = 500
Port = Annotated[int, msgspec.Meta(ge=1, lt=2**32)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Total = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
Text = Annotated[str, msgspec.Meta(max_length=_MAX_TEXT)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    port: Port


class Attach(_Message, tag=1, frozen=True):
    """Client: `port` stands for this queue. Answered by `Attached` or `Refused`."""

    queue_id: Annotated[str, msgspec.Meta(max_length=64)]


class Attached(_Message, tag=2, frozen=True):
    """Server: the queue is there."""

    maxsize: Positive | None
    max_bytes: Positive | None = None


class Refused(_Message, tag=3, frozen=True):
    """Server: the port stands for nothing, from now on or from the beginning."""

    code: Annotated[str, msgspec.Meta(max_length=8)]
    what: Text


class Detach(_Message, tag=4, frozen=True):
    """Client: nothing more comes on this port, and nothing more is wanted there."""


class Items(_Message, tag=5, frozen=True):
    """Either: items follow, as a frame. From a client, for places that it holds."""

    items: Positive
    many: bool
    buffers: Annotated[int, msgspec.Meta(ge=0, lt=2**16)] = 0
    prompt: bool = False
    """Whether somebody waits for these to be accepted."""
    spent: Total = 0
    """Of the bytes that the client holds, those that it spent on items since the frame before."""


class Accepted(_Message, tag=6, frozen=True):
    """Server: so many frames of this port, ever, are in the queue, or were rejected."""

    frames: Total


class Rejected(_Message, tag=7, frozen=True):
    """Server: frame number `frame` of this port is not in the queue. Its places are still the client's."""

    frame: Total
    code: Annotated[str, msgspec.Meta(max_length=8)]
    what: Text


class Need(_Message, tag=8, frozen=True):
    """Client: places and bytes would be used up to here, in numbers of those granted since the beginning."""

    places: Total
    size: Total = 0


class Grant(_Message, tag=9, frozen=True):
    """Server: places were reserved for this client, and bytes where the queue counts them."""

    places: Count
    size: Total = 0


class Back(_Message, tag=10, frozen=True):
    """Client: gives back places and bytes that it does not use."""

    places: Count
    size: Total = 0


class Demand(_Message, tag=11, frozen=True):
    """Client: what it can take, and has taken, in numbers of items since the beginning."""

    upto: Total
    """It may be sent items up to here."""
    got: Total
    """It got items up to here, or somebody waits for them: their places are free, as soon as they are sent."""


class Recall(_Message, tag=12, frozen=True):
    """Server: send what you hold back, tell what you got. Answered by `Settled` with the same round."""

    round: Total
    places: bool
    """Give back also the places that you do not use."""
    closed: bool
    """The queue was closed: put nothing any more."""
    items: bool = False
    """Others wait for items: return those that nobody gets."""


class Settled(_Message, tag=13, frozen=True):
    """Client: done."""

    round: Total
    back: Count
    """Places given back."""
    got: Total
    size: Total = 0
    """Bytes given back."""


class Ask(_Message, tag=14, frozen=True):
    """Client: a question, answered by `Answer` with the same number.

    ``room``: reserve up to `count` places and `size` bytes for me, or tell me that there are none. ``items``: send me
    up to `count` items, or tell me that it is empty. ``more``: the same, but leave others what they were sent.
    ``size``: how many items are in it. ``depth``: the same, as far as the server knows. ``close``: close it. ``look``:
    accept what I sent.
    """

    number: Total
    what: str
    count: Count = 0
    size: Total = 0


class Answer(_Message, tag=15, frozen=True):
    """Server: the answer. What was granted or sent because of the question has been sent before."""

    number: Total
    count: Total
    closed: bool


class Ended(_Message, tag=16, frozen=True):
    """Server: the queue was closed, and nothing is left."""


class Returned(_Message, tag=17, frozen=True):
    """Client: items follow, as a frame, that it was sent and nobody got there. They count as got from now on."""

    items: Positive
    many: bool
    buffers: Annotated[int, msgspec.Meta(ge=0, lt=2**16)] = 0


Message: TypeAlias = (
    Attach
    | Attached
    | Refused
    | Detach
    | Items
    | Accepted
    | Rejected
    | Need
    | Grant
    | Back
    | Demand
    | Recall
    | Settled
    | Ask
    | Answer
    | Ended
    | Returned
)
encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(body: Part, buffers: Parts) -> Message:
    """The message of `body`. Raises E526 for anything else, also where other parts follow than have to."""
    if len(body) > MAX_BODY_BYTES:
        raise _garbage(f"{len(body)} bytes")
    try:
        message: Message = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _garbage(str(error)) from error
    expected = 1 + message.buffers if isinstance(message, Items | Returned) else 0
    if len(buffers) != expected:
        raise _garbage(f"{len(buffers)} parts in place of {expected}")
    return message


def of_frame(port: int, frame: Frame, *, prompt: bool = False, spent: int = 0) -> tuple[Items, Parts]:
    """A frame as a message, and the parts that follow it."""
    message = Items(port, frame.items, frame.many, len(frame.buffers), prompt, spent)
    return message, (frame.data, *frame.buffers)


def frame_of(message: Items | Returned, parts: Sequence[Part]) -> Frame:
    """The opposite."""
    return Frame(message.items, message.many, parts[0], parts[1:])


def short(text: str) -> str:
    """`text`, as much of it as a message carries."""
    return text[:_MAX_TEXT]


def _garbage(got: str) -> QueueError:
    return QueueError("E526", "this is no message between queues", got=got)
