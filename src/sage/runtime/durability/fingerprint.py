"""What an operator is, as text that changes when its code or its configuration does."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any

from sage import codec
from sage.errors import SageError

MAX_DEPTH = 6


def fingerprint(operator: Any, *, private: bool = False) -> str:
    """The same in every process while nothing changes. Covers the byte code of the operator and of the functions nested
    in it, its class, defaults, closure and attributes, where they are plain values or such objects themselves; not what
    it calls by name. Attributes that begin with an underscore count only if `private`."""
    digest = hashlib.sha256()
    for piece in _pieces(operator, MAX_DEPTH, private):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:32]


def _pieces(value: Any, depth: int, private: bool) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if depth == 0:
        return
    if isinstance(value, types.FunctionType):
        yield value.__qualname__.encode()
        yield from _code(value.__code__)
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        for inner in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *cells):
            yield from _pieces(inner, depth - 1, private)
    elif isinstance(value, types.MethodType):
        yield from _pieces(value.__func__, depth, private)
        yield from _pieces(value.__self__, depth - 1, private)
    elif isinstance(value, functools.partial):
        for inner in (value.func, *value.args, *sorted(value.keywords.items())):
            yield from _pieces(inner, depth - 1, private)
    elif isinstance(value, type | types.BuiltinFunctionType):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    else:
        yield from _object(value, depth, private)


def _object(value: Any, depth: int, private: bool) -> Iterator[bytes]:
    try:
        yield codec.canonical(value)
        return
    except SageError:
        pass
    kind = type(value)
    yield f"{kind.__module__}.{kind.__qualname__}".encode()
    if not kind.__module__.startswith(
        "sage."
    ):  # of SAGE's own, a release that changes nothing visible should not count
        for name, member in sorted(vars(kind).items()):
            if isinstance(member, types.FunctionType):
                yield name.encode()
                yield from _code(member.__code__)
    for name, inner in sorted(getattr(value, "__dict__", {}).items()):
        if private or not name.startswith("_"):
            yield name.encode()
            yield from _pieces(inner, depth - 1, private)


def _code(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield " ".join((*code.co_names, *code.co_varnames)).encode("utf-8", "surrogatepass")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode(
                "utf-8", "surrogatepass"
            )


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
