"""How many bytes an item takes where it is passed by reference: what is counted against `max_bytes`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

_PLAIN_BYTES = 33
LEAVES: frozenset[type] = frozenset({int, float, bool, NoneType, str, bytes})
"""They hold nothing else: `sys.getsizeof` is all that they take."""
_TEXT = {str}
_NOT_ITS_OWN = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


def size_of(item: Any) -> int:
    """The bytes of `item` and of all that it holds, each object once; not of classes, functions and modules.

    An array counts with all its elements, also where it is a view of another one.
    """
    if type(item) in LEAVES:
        return sys.getsizeof(item)
    total = 0
    seen: set[int] = set()
    found = [item]
    while found:
        thing = found.pop()
        if id(thing) in seen or isinstance(thing, _NOT_ITS_OWN):
            continue
        seen.add(id(thing))
        if type(thing) in LEAVES:
            total += sys.getsizeof(thing)
        elif (size := _buffer_bytes(thing)) is not None:
            total += size
        else:
            total += sys.getsizeof(thing)
            found += gc.get_referents(thing)
    return total


def weight_of(item: Any) -> int:
    """`size_of`, but for plain items at once; of texts and bytes, what they take pickled, or about that."""
    kind = type(item)
    if kind is bytes or (kind is str and item.isascii()):
        return len(item) + _PLAIN_BYTES
    return sys.getsizeof(item) if kind in LEAVES else size_of(item)


def weight_of_all(items: Sequence[Any]) -> int:
    """`weight_of` of them together, or a little more; quick where all are texts, or all plain."""
    kinds = set(map(type, items))
    if kinds == _TEXT and (text := "".join(items)).isascii():
        return len(text) + _PLAIN_BYTES * len(items)
    return sum(map(sys.getsizeof if kinds <= LEAVES else weight_of, items))


def _buffer_bytes(thing: Any) -> int | None:
    try:
        with memoryview(thing) as view:
            return view.nbytes + object.__sizeof__(thing)
    except (TypeError, ValueError, BufferError):  # it has none, or none that can be told so
        return None
