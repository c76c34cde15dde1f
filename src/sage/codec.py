"""Values as JSON that can be read, and come back as what they were: for dead letters and other files of SAGE.

Plain JSON values are written as plain JSON. Anything else of the closed table below is written as an object with one
key that starts with ``$``; a user's own dict of that form, or with keys that are not text, is written as ``$dict``.

=============================  ==========================================================================
``$int``                       hexadecimal, for whole numbers of more than 2,000 bits
``$float``                     ``nan``, ``inf``, ``-inf``
``$str``                       text with lone surrogates, escaped as in Python source
``$bytes``                     base64
``$tuple $set $frozenset``     a list
``$dict``                      a list of ``[key, value]``
``$datetime $date $time``      ISO 8601; of a time zone the offset is kept, not name or fold
``$timedelta``                 ``[days, seconds, microseconds]``
``$decimal $uuid``             text
``$array``                     a numpy array: ``[dtype, shape, base64 of its bytes in C order]``
``$scalar``                    a numpy scalar: ``[dtype, base64]``
=============================  ==========================================================================

Types count exactly: a subclass (an enum, an ordered dict, a dataclass) is refused rather than changed. Nothing is ever
imported by a name that was read.
"""

from __future__ import annotations

import datetime as dt
import math
from functools import cache
from typing import Any, TypeAlias

from sage.codec_types import CONTAINERS, LEAVES, TAGS, pack_numpy
from sage.errors import RecordError, StorageError, shorten

MAX_DEPTH = 100
MAX_BYTES = 64 * 1024 * 1024
_MAX_STORED_DEPTH = 4 * MAX_DEPTH  # a tagged dict is stored as four levels
_MAX_PLAIN_BITS = 2000  # Python refuses to read or write decimal numbers of more than 640 digits, if told so
_SCALARS = frozenset({str, int, bool, type(None)})
_Path: TypeAlias = tuple["_Path", Any] | None
"""Where a value stands: the place of its container, and its key or index there. Made text only for an error."""


class _Mark(str):
    """A step of a path that is neither key nor index."""

    __slots__ = ()


_IN_SET, _IN_KEY = _Mark("{}"), _Mark(" (key)")


def encode(value: Any, *, max_bytes: int = MAX_BYTES) -> bytes:
    """`value` as JSON text in UTF-8, on one line.

    Raises `RecordError` E407, naming the path and the type, for what is not in the table, and for values
    nested deeper than `MAX_DEPTH` or larger than `max_bytes`.
    """
    data = _plain_bytes(value, _encoder())
    return _limited(_encoder().encode(_pack(value, None, MAX_DEPTH)) if data is None else data, max_bytes)


def canonical(value: Any, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Like `encode`, but equal for dicts that differ only in the order of their keys: for hashing."""
    data = _plain_bytes(value, _sorting_encoder())
    if data is None:
        data = _sorting_encoder().encode(_pack(value, None, MAX_DEPTH, ordered=True))
    return _limited(data, max_bytes)


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value that `encode` or `canonical` made `data` of. Raises `StorageError` E604 for anything else."""
    if len(data) > max_bytes:
        raise StorageError("E604", "a stored value is too large", got=f"{len(data):,} bytes", expected=f"{max_bytes:,}")
    try:
        value = _decoder().decode(data)
        return _unpack(value, _MAX_STORED_DEPTH) if b'"$' in data or b'"\\u0024' in data else value
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise StorageError("E604", f"this is not a value that SAGE stored ({error})", got=bytes(data[:400])) from error


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether `value` is JSON throughout: exact types, finite numbers, text keys, at most `depth` levels.

    Text with lone surrogates counts as plain here: finding it is left to whoever encodes.
    """
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is float:
        return math.isfinite(value)
    if depth <= 0:
        return False
    if kind is dict:
        if not all(type(key) is str for key in value):
            return False
        children = value.values()
    elif kind is list:
        children = value
    else:
        return False
    if _SCALARS.issuperset(map(type, children)):
        return True
    return all(is_plain(child, depth - 1) for child in children)


def _plain_bytes(value: Any, encoder: Any) -> bytes | None:
    """The quick way, where it is certain that no tag is needed."""
    if not is_plain(value):
        return None
    try:
        data: bytes = encoder.encode(value)
        return None if b'"$' in data else data
    except ValueError:  # lone surrogates, or a number of thousands of digits
        return None


def _limited(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise RecordError(
            "E407", "the value is too large to be stored", got=f"{len(data):,} bytes", expected=f"{max_bytes:,}"
        )
    return data


def _pack(value: Any, path: _Path, depth: int, *, ordered: bool = False) -> Any:
    """`value` as a tree that is plain JSON."""
    kind = type(value)
    if kind is str:
        return _pack_str(value)
    if kind is int:
        return value if value.bit_length() <= _MAX_PLAIN_BITS else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is bool or value is None:
        return value
    if kind in LEAVES and not _has_odd_offset(value):
        return {f"${kind.__name__.lower()}": LEAVES[kind](value)}
    if depth <= 0:
        raise RecordError(
            "E407", "the value is nested too deeply to be stored", at=_shown(path), expected=f"{MAX_DEPTH} levels"
        )
    if kind is dict:
        return _pack_dict(value, path, depth, ordered)
    if kind is list or kind is tuple:
        items = [_pack(item, (path, index), depth - 1, ordered=ordered) for index, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind is set or kind is frozenset:
        items = [_pack(item, (path, _IN_SET), depth - 1, ordered=True) for item in value]
        return {f"${kind.__name__}": sorted(items, key=_sorting_encoder().encode)}
    packed = pack_numpy(value)
    if packed is None:
        got = f"{kind.__module__}.{kind.__qualname__}"
        raise RecordError("E407", "a value of this type cannot be stored", at=_shown(path), got=got)
    return packed


def _pack_dict(value: dict[Any, Any], path: _Path, depth: int, ordered: bool) -> Any:
    if all(type(key) is str and _is_unicode(key) for key in value) and not (len(value) == 1 and _looks_tagged(value)):
        return {key: _pack(item, (path, key), depth - 1, ordered=ordered) for key, item in value.items()}
    pairs = [
        [
            _pack(key, (path, _IN_KEY), depth - 1, ordered=ordered),
            _pack(item, (path, key), depth - 1, ordered=ordered),
        ]
        for key, item in value.items()
    ]
    if ordered:
        pairs.sort(key=lambda pair: _sorting_encoder().encode(pair[0]))
    return {"$dict": pairs}


def _pack_str(value: str) -> Any:
    return value if _is_unicode(value) else {"$str": value.encode("unicode_escape").decode("ascii")}


def _has_odd_offset(value: Any) -> bool:
    """Python writes a UTC offset with a fraction of a second, and reads back another one."""
    offset = value.utcoffset() if isinstance(value, dt.datetime | dt.time) else None
    return offset is not None and offset.microseconds != 0


def _shown(path: _Path) -> str:
    if path is None:
        return "$"
    parent, step = path
    if isinstance(step, _Mark):
        return f"{_shown(parent)}{step}"
    name = shorten(step, 40)
    return f"{_shown(parent)}.{name}" if isinstance(step, str) else f"{_shown(parent)}[{name}]"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _looks_tagged(value: dict[Any, Any]) -> bool:
    key: str = next(iter(value))
    return key.startswith("$")


def _unpack(value: Any, depth: int) -> Any:
    if depth < 0:
        raise ValueError("nested too deeply")
    if type(value) is list:
        return [_unpack(item, depth - 1) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1 and _looks_tagged(value):
        ((tag, packed),) = value.items()
        if tag not in TAGS:
            raise ValueError(f"unknown tag {tag!r}")
        return TAGS[tag](_unpack(packed, depth - 1) if tag in CONTAINERS else packed)
    return {key: _unpack(item, depth - 1) for key, item in value.items()}


@cache
def _encoder() -> Any:
    import msgspec

    return msgspec.json.Encoder()


@cache
def _sorting_encoder() -> Any:
    import msgspec

    return msgspec.json.Encoder(order="deterministic")


@cache
def _decoder() -> Any:
    import msgspec

    return msgspec.json.Decoder()
