"""Frames: what items are between processes. One frame carries one item, or a list of items that travel together.

Large buffers (arrays, bytes-like objects that offer them) stay out of the pickle, so that a transport can move them
without a copy. A list of texts alone, or of numbers alone, is msgpack: a quarter quicker, and its first byte says so.
This module is the only one of the queues that pickles and unpickles; whoever calls `unpack` vouches that the bytes came
through a link that is authenticated, or from memory that is this user's own (RELIABILITY S6).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from operator import countOf
from types import NoneType
from typing import Any, NamedTuple

from sage.errors import QueueError

LARGE_BYTES = 64 * 1024
"""Buffers from this size on stay out of the pickle."""
PLAIN = frozenset({str, int, float, bool, NoneType, bytes})
"""Types of items that can never change, and always be pickled: it is the same now or later."""
TEXTS: frozenset[type] = frozenset({str, bytes})
NUMBERS = PLAIN - TEXTS
SHORT = 1_000
"""A text of so many characters is small, whatever they are."""
_PICKLE = 0x80
"""The first byte of every pickle of protocol 2 and more, and of no list in msgpack."""
_OF_THE_SCRIPT = b"__main__"


class Frame(NamedTuple):
    """Items on their way."""

    items: int
    """How many, at least 1."""
    many: bool
    """Whether `data` is a list of items; else the one item itself."""
    data: bytes | memoryview
    buffers: Sequence[Any] = ()
    """Bytes-like, in the order in which the pickle wants them."""

    @property
    def size_bytes(self) -> int:
        """Data and buffers together."""
        return len(self.data) + sum(map(len, self.buffers))


class Frozen:
    """An item as it was when it was put. Packed, it is the item itself."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _thaw, (self.data,)


class Spoiled(NamedTuple):
    """Stands for an item that cannot be unpickled in this process."""

    error: Exception


def pack(item: Any, *, by_value: bool = False) -> Frame:
    """One item as a frame. Raises `QueueError` E509 where it cannot be pickled.

    With `by_value`, classes and functions of the script that runs (``__main__``) travel with the item: for a consumer
    that did not import that script.
    """
    if type(item) is Frozen:
        return Frame(1, False, item.data)
    buffers: list[memoryview] = []
    return Frame(1, False, _pickled(item, buffers, by_value), buffers)


def pack_many(items: list[Any], *, by_value: bool = False) -> Frame:
    """All `items`, at least one, as one frame. Raises E509 where one of them cannot be pickled."""
    if (plain := _plain(items)) is not None:
        return Frame(len(items), True, plain)
    buffers: list[memoryview] = []
    return Frame(len(items), True, _pickled(items, buffers, by_value), buffers)


def pack_list(items: list[Any], *, by_value: bool = False) -> bytes | None:
    """What `unpack_list` turns into `items` again; None where that is not small, or not to be had so simply."""
    data = _plain(items)
    if data is None:
        if by_value:
            return None
        try:
            data = pickle.dumps(items, 5, buffer_callback=_refuse_large)
        except Exception:  # noqa: BLE001 -- anything may be raised: `pack_many` says what
            return None
    return data if len(data) <= LARGE_BYTES else None


def _plain(items: list[Any]) -> bytes | None:
    """The msgpack of `items`, if all are of one and the same type that is plain."""
    kind = type(items[0])
    if kind not in PLAIN or countOf(map(type, items), kind) != len(items):
        return None
    try:
        return _msgpack()[0](items)
    except (OverflowError, UnicodeEncodeError):  # a whole number of more than 64 bits, half of a surrogate pair
        return None


@cache
def _msgpack() -> tuple[Callable[[Any], bytes], Callable[[bytes | memoryview], Any]]:
    """How to encode and to decode."""
    import msgspec

    return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def _refuse_large(buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes < LARGE_BYTES:
        return True
    raise BufferError("it goes out of band")


def unpack(frame: Frame) -> list[Any]:
    """The items of a frame from a trusted link; arrays are views of its buffers. Raises what unpickling raises."""
    if frame.many and frame.data[0] != _PICKLE:
        return _msgpack()[1](frame.data)  # type: ignore[no-any-return]
    found = pickle.loads(frame.data, buffers=frame.buffers)  # noqa: S301 -- the caller vouches, see above
    return found if frame.many else [found]


def unpack_list(data: memoryview) -> list[Any]:
    """The same of a list without buffers. Nothing of it looks at `data` afterwards."""
    if data[0] != _PICKLE:
        return _msgpack()[1](data)  # type: ignore[no-any-return]
    return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301 -- the caller vouches, see above


def unpack_each(frame: Frame) -> list[Any]:
    """The same, but never raises: `Spoiled` stands for what cannot be unpickled, alone where it was frozen alone."""
    try:
        if frame.many and frame.data[0] != _PICKLE:
            return unpack(frame)
        found = _Apart(io.BytesIO(frame.data), buffers=frame.buffers).load()
    except Exception as error:  # noqa: BLE001 -- anything may be raised; it goes to whoever gets the item
        return [Spoiled(error)] * frame.items
    return [_or_spoiled(item) for item in (found if frame.many else [found])]


class _Apart(pickle.Unpickler):
    """Leaves frozen items frozen."""

    def find_class(self, module: str, name: str) -> Any:
        return Frozen if (module, name) == (__name__, _thaw.__name__) else super().find_class(module, name)


def _or_spoiled(item: Any) -> Any:
    try:
        return _thaw(item.data) if type(item) is Frozen else item
    except Exception as error:  # noqa: BLE001 -- see `unpack_each`
        return Spoiled(error)


def _thaw(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 -- part of a frame that somebody vouched for


LOST = Frame(1, False, pickle.dumps(Frozen(b""), 5))
"""Stands for an item that is lost on its way: it cannot be unpickled."""


def _pickled(item: Any, buffers: list[memoryview], by_value: bool) -> bytes:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE_BYTES:
            return True
        buffers.append(raw)
        return False

    try:
        data = pickle.dumps(item, 5, buffer_callback=keep)
        if not by_value or _OF_THE_SCRIPT not in data:
            return data
    except Exception as error:
        if not by_value:
            raise _unpicklable(item) from error
    buffers.clear()
    try:
        import cloudpickle

        return cloudpickle.dumps(item, 5, buffer_callback=keep)  # type: ignore[no-any-return]
    except Exception as error:
        raise _unpicklable(item) from error


def _unpicklable(item: Any) -> QueueError:
    what = "the item cannot be pickled"
    return QueueError("E509", what, got=item, try_="put plain values, or objects of importable classes")
