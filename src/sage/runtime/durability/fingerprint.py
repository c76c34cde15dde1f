"""What an operator is, as text that changes when its code or its configuration does."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from sage import codec
from sage.errors import SageError

MAX_DEPTH = 6


def fingerprint(operator: Any, *, strict: bool = False) -> str:
    """The same in every process while nothing changes. Covers the byte code of the operator and of the functions nested
    in it, its class, defaults, closure and public attributes, where they are plain values or such objects themselves;
    not what it calls by name. If `strict`, also private attributes, its classes whole, and what functions of its module
    name in that module: constants, helper functions and classes."""
    digest = hashlib.sha256()
    walk = _Strict(_module_of(operator)) if strict else None
    for piece in _pieces(operator, MAX_DEPTH, walk):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:32]


@dataclass
class _Strict:
    """A strict walk."""

    module: str
    """Whose functions and classes it goes into."""
    seen: set[int] = field(default_factory=set)

    def enters(self, value: types.FunctionType | type) -> bool:
        """Whether to look into it: once, for otherwise two that name one another had no end."""
        if value.__module__ != self.module or id(value) in self.seen:
            return False
        self.seen.add(id(value))
        return True


def _module_of(operator: Any) -> str:
    while isinstance(operator, functools.partial):
        operator = operator.func
    named = operator if isinstance(operator, types.FunctionType | types.MethodType | type) else type(operator)
    return str(named.__module__)


def _pieces(value: Any, depth: int, strict: _Strict | None) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if depth == 0:
        return
    if isinstance(value, types.FunctionType):
        yield value.__qualname__.encode()
        yield from _code(value.__code__)
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        for inner in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *cells):
            yield from _pieces(inner, depth - 1, strict)
        if strict is not None and strict.enters(value):
            yield from _named(value, depth - 1, strict)
    elif isinstance(value, types.MethodType):
        yield from _pieces(value.__func__, depth, strict)
        yield from _pieces(value.__self__, depth - 1, strict)
    elif isinstance(value, functools.partial):
        for inner in (value.func, *value.args, *sorted(value.keywords.items())):
            yield from _pieces(inner, depth - 1, strict)
    elif isinstance(value, type | types.BuiltinFunctionType):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if strict is not None and isinstance(value, type):
            yield from _classes(value, depth - 1, strict)
    else:
        yield from _object(value, depth, strict)


def _object(value: Any, depth: int, strict: _Strict | None) -> Iterator[bytes]:
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
        if strict is not None or not name.startswith("_"):
            yield name.encode()
            yield from _pieces(inner, depth - 1, strict)
    if strict is not None:
        yield from _strictly(value, depth - 1, strict)


def _strictly(value: Any, depth: int, strict: _Strict) -> Iterator[bytes]:
    """What an object is beside its ``__dict__``: its classes, what it contains, what it says it is, or its slots."""
    yield from _classes(type(value), depth, strict)
    if isinstance(value, Mapping):
        value = list(value.items())
    said = repr(value)
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _pieces(inner, depth, strict)
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_pieces(inner, depth, strict)) for inner in value)
    elif type(value).__module__ == strict.module or " at 0x" in said:  # an address is another one in each process
        for name in (name for base in type(value).__mro__ for name in _slots(base)):
            yield name.encode()
            yield from _pieces(getattr(value, name, None), depth, strict)
    else:
        yield said.encode("utf-8", "backslashreplace")


def _slots(base: type) -> Sequence[str]:
    slots = vars(base).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _classes(kind: type, depth: int, strict: _Strict) -> Iterator[bytes]:
    """Methods of a class and of its bases, and the values in them."""
    some = [base for base in kind.__mro__ if strict.enters(base)]
    for name, member in (pair for base in some for pair in sorted(vars(base).items(), key=itemgetter(0))):
        inner = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        if isinstance(inner, types.FunctionType) or not name.startswith("__"):
            yield name.encode()
            yield from _pieces(inner, depth, strict)


def _named(function: types.FunctionType, depth: int, strict: _Strict) -> Iterator[bytes]:
    """What it names in its module."""
    for name in sorted(_names(function.__code__)):
        inner = function.__globals__.get(name)
        if inner is not None and not isinstance(inner, types.ModuleType):
            yield name.encode()
            yield from _pieces(inner, depth, strict)


def _names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(one) for one in code.co_consts if isinstance(one, types.CodeType)))


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
