"""The types of the codec's table that JSON does not have: what is written for each, and how it is read.

What is inside sets, tuples and dicts can be of any type: that is packed and unpacked by `sage.codec`.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from sage.errors import MissingDependency

_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,9}(\[[0-9a-zA-Z]{1,12}\])?")


def pack_numpy(value: Any) -> dict[str, Any] | None:
    """A numpy array or scalar as its tag and what stands behind it; None for anything else."""
    numpy = sys.modules.get("numpy")  # a numpy value can only exist where numpy is loaded
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic) or not _DTYPE.fullmatch(value.dtype.str):
        return None
    if isinstance(value, numpy.generic):
        return {"$scalar": [value.dtype.str, _base64_text(value.tobytes())]}
    if type(value) is numpy.ndarray:
        return {"$array": [value.dtype.str, list(value.shape), _base64_text(value.tobytes())]}
    return None


def _unpack_array(packed: list[Any]) -> Any:
    dtype, shape, data = packed
    return _from_buffer(dtype, data).reshape([int(size) for size in shape]).copy()


def _unpack_scalar(packed: list[Any]) -> Any:
    dtype, data = packed
    return _from_buffer(dtype, data)[0]


def _from_buffer(dtype: Any, data: str) -> Any:
    if not _DTYPE.fullmatch(dtype):
        raise ValueError(f"unknown dtype {dtype!r}")
    try:
        import numpy
    except ImportError as error:
        raise MissingDependency("numpy", "rag", "a stored array") from error
    return numpy.frombuffer(_base64_bytes(data), dtype=numpy.dtype(dtype))


def _base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _base64_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"not a decimal: {text!r}") from error


LEAVES: Mapping[type, Callable[[Any], Any]] = {
    bytes: _base64_text,
    dt.datetime: dt.datetime.isoformat,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Decimal: str,
    UUID: str,
}
"""What stands behind the tag ``$<name of the type>``, of types that hold no other values."""
CONTAINERS = frozenset({"$tuple", "$set", "$frozenset", "$dict"})
TAGS: Mapping[str, Callable[[Any], Any]] = {
    "$int": lambda text: int(text, 16),
    "$float": {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.__getitem__,
    "$str": lambda text: text.encode("ascii").decode("unicode_escape"),
    "$bytes": _base64_bytes,
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$datetime": dt.datetime.fromisoformat,
    "$date": dt.date.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$timedelta": lambda parts: dt.timedelta(*parts),
    "$decimal": _decimal,
    "$uuid": UUID,
    "$array": _unpack_array,
    "$scalar": _unpack_scalar,
}
"""The value, from what stands behind its tag; of `CONTAINERS`, when that has been unpacked."""
