"""Records as JSON text: strict, one line each, and never something else than what was given.

Written as they are: dict (with text keys), list, tuple, str, int, finite float, bool, None. Written as their JSON
form: dataclasses and msgspec structs (an object of their fields), enums (their value), date, time, datetime, UUID,
Decimal (text, ISO 8601 for times), timedelta (ISO 8601 duration), numpy scalars and arrays (numbers, lists).
Refused: NaN and infinities, lone surrogates, sets, bytes, keys that are not text, any other object.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any
from uuid import UUID

from sage.codec import MAX_DEPTH, is_plain
from sage.errors import RecordError
from sage.flow.sink import Rejected

_LEAVES = (bool, int, dt.datetime, dt.date, dt.time, dt.timedelta, UUID, Decimal)


def to_json_lines(records: Sequence[Any]) -> tuple[bytes, list[Rejected]]:
    """Each record as one line of JSON, and those that cannot be written."""
    if all(map(is_plain, records)):
        try:
            data: bytes = _encoder().encode_lines(records)
            return data, []
        except (ValueError, RecursionError):
            pass  # one of them holds a lone surrogate, say: they are looked at one by one
    lines: list[bytes] = []
    rejected: list[Rejected] = []
    for index, record in enumerate(records):
        try:
            lines.append(to_json(record))
        except RecordError as error:
            rejected.append(Rejected(index, error))
    lines.append(b"")
    return b"\n".join(lines), rejected


def to_json(value: Any) -> bytes:
    """`value` as JSON text in UTF-8. Raises `RecordError` E406 that names the path of what cannot be written."""
    plain = value if is_plain(value) else _plain(value, "$", MAX_DEPTH)
    try:
        data: bytes = _encoder().encode(plain)
    except ValueError as error:
        _find_bad_text(plain, "$")
        raise RecordError("E406", "the record cannot be written as JSON", got=str(error)) from error
    return data


def to_json_cell(value: Any) -> str:
    """`value` as the text of a table's cell: JSON, but text (a date, say) without its quotes."""
    import msgspec

    text = to_json(value).decode()
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def _plain(value: Any, path: str, depth: int) -> Any:
    """`value` with nothing in it but what JSON knows (and what msgspec writes as text in a standard form)."""
    if isinstance(value, Enum):
        return _plain(value.value, path, depth)
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, _LEAVES):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(value, path, "a finite number")
        return float(value)
    if depth <= 0:
        raise _refused(value, path, f"at most {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, f"{path}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    return _plain(_as_builtin(value, path), path, depth)


def _as_builtin(value: Any, path: str) -> Any:
    """One level of a structured object as a dict, list or number."""
    import msgspec

    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    numpy = sys.modules.get("numpy")  # a numpy value can only exist where numpy is loaded
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray) and value.dtype.kind in "biufUM":
        return value.tolist()
    raise _refused(value, path, "a JSON value")


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise RecordError("E406", "a key is not text", at=path, got=key, expected="str", try_="str(key)")
    return str(key)


def _refused(value: Any, path: str, expected: str) -> RecordError:
    what = f"a value of type {type(value).__name__} cannot be written as JSON"
    return RecordError("E406", what, at=path, got=value, expected=expected)


def _find_bad_text(value: Any, path: str) -> None:
    """Raise the `RecordError` that names the first text in `value` with a lone surrogate, if there is one."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _refused(value, path, "text without lone surrogates") from error
    elif isinstance(value, dict):
        for key, item in value.items():
            _find_bad_text(key, f"{path} (key)")
            _find_bad_text(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _find_bad_text(item, f"{path}[{index}]")


@cache
def _encoder() -> Any:
    import msgspec

    return msgspec.json.Encoder()
