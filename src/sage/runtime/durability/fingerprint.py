"""What an operator is, as text that changes when its code or its configuration does.

An object is what pickle would send of it: all of its attributes, private ones and slots too. A class is the code and
the values of itself and its bases. A function is its code, and what it names in modules of the user's: not in those of
Python, of SAGE, or installed ones.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from sage import codec
from sage.errors import SageError
from sage.settings import Secret

MAX_DEPTH = 40
_WRAPPED = (staticmethod, classmethod)
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib"))


def fingerprint(operator: Any) -> str:
    """The same in every process while nothing changes. An operator that is another one each time it is made, because
    it holds a time or a random number, has another fingerprint each time."""
    digest = hashlib.sha256()
    for piece in _Walk(_module_of(operator)).pieces(operator, MAX_DEPTH):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:32]


def _module_of(operator: Any) -> str:
    while isinstance(operator, functools.partial):
        operator = operator.func
    named = operator if isinstance(operator, types.FunctionType | types.MethodType | type) else type(operator)
    return str(named.__module__)


class _Walk:
    """Once over all that an operator is."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._entered: set[int] = set()
        self._within: set[int] = set()
        self._alive: list[Any] = []
        """What was looked at, so that no other object gets its id."""

    def pieces(self, value: Any, depth: int) -> Iterator[bytes]:
        yield type(value).__qualname__.encode()
        if depth == 0:
            return
        if isinstance(value, types.FunctionType):
            yield from self._function(value, depth)
        elif isinstance(value, types.MethodType):
            yield from self.pieces(value.__func__, depth)
            yield from self.pieces(value.__self__, depth - 1)
        elif isinstance(value, functools.partial):
            for inner in (value.func, *value.args, *sorted(value.keywords.items())):
                yield from self.pieces(inner, depth - 1)
        elif isinstance(value, type | types.BuiltinFunctionType):
            yield f"{value.__module__}.{value.__qualname__}".encode()
            if isinstance(value, type):
                yield from self._class(value, depth - 1)
        elif not isinstance(value, Secret):  # a new key asks nothing new
            yield from self._object(value, depth)

    def _function(self, function: types.FunctionType, depth: int) -> Iterator[bytes]:
        yield function.__qualname__.encode()
        yield from _code(function.__code__)
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        for inner in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells):
            yield from self.pieces(inner, depth - 1)
        if not self._enters(function):
            return
        names = _names(function.__code__)
        for name in sorted(names):
            inner = function.__globals__.get(name)
            if isinstance(inner, types.ModuleType):
                yield from self._values(inner.__name__, {n: vars(inner)[n] for n in names & vars(inner).keys()}, depth)
            elif inner is not None:
                yield name.encode()
                yield from self.pieces(inner, depth - 1)

    def _values(self, module: str, values: Mapping[str, Any], depth: int) -> Iterator[bytes]:
        """What is named in a module beside that of the function."""
        for name, inner in sorted(values.items(), key=itemgetter(0)) if self._is_the_users(module) else ():
            yield f"{module}.{name}".encode()
            yield from self.pieces(inner, depth - 1)

    def _class(self, kind: type, depth: int) -> Iterator[bytes]:
        """Methods of a class and of its bases, and the values in them."""
        for base in (base for base in kind.__mro__ if self._enters(base)):
            yield f"{base.__module__}.{base.__qualname__}".encode()
            for name, member in sorted(vars(base).items(), key=itemgetter(0)):
                for inner in _parts(member):
                    if isinstance(inner, types.FunctionType) or not name.startswith("__"):
                        yield name.encode()
                        yield from self.pieces(inner, depth - 1)

    def _object(self, value: Any, depth: int) -> Iterator[bytes]:
        try:
            yield codec.canonical(value)
            return
        except SageError:
            pass
        if id(value) in self._within:
            yield b"itself"
            return
        self._within.add(id(value))
        self._alive.append(value)
        if isinstance(value, set | frozenset):
            yield from self._unordered(value, depth - 1)
        elif type(value) in (list, tuple):
            for inner in value:
                yield from self.pieces(inner, depth - 1)
        elif type(value) is dict:
            yield from self._unordered(value.items(), depth - 1)
        else:
            yield from self._reduced(value, depth)
        self._within.remove(id(value))

    def _unordered(self, values: Iterable[Any], depth: int) -> list[bytes]:
        """The same in whatever order they come, which may be another one in each process."""
        before, entered = self._entered, set(self._entered)
        found = []
        for inner in values:
            self._entered = set(before)
            found.append(b"".join(self.pieces(inner, depth)))
            entered |= self._entered
        self._entered = entered
        return sorted(found)

    def _reduced(self, value: Any, depth: int) -> Iterator[bytes]:
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}".encode()
        yield from self._class(kind, depth - 1)
        if kind.__module__ == "weakref":  # a cache: what is in it comes and goes
            return
        reducer = copyreg.dispatch_table.get(kind)
        try:
            reduced = value.__reduce_ex__(2) if reducer is None else reducer(value)
        except Exception:  # noqa: BLE001 -- what cannot be sent (a lock, a file) says nothing but what it is
            return
        if isinstance(reduced, str):  # a name in its module
            yield reduced.encode()
            return
        function, arguments, *rest = reduced
        yield getattr(function, "__qualname__", "").encode()
        for inner in (arguments, *(list(part) if isinstance(part, Iterator) else part for part in rest)):
            yield from self.pieces(inner, depth - 1)

    def _enters(self, value: types.FunctionType | type) -> bool:
        """Whether to look into it: once, for otherwise two that name one another had no end."""
        if id(value) in self._entered or not self._is_the_users(value.__module__):
            return False
        self._entered.add(id(value))
        self._alive.append(value)
        return True

    def _is_the_users(self, module: str | None) -> bool:
        """Not of Python or of SAGE, which change with their version; nor installed, unless the operator is, too."""
        top = (module or "").partition(".")[0]
        if top in sys.stdlib_module_names or top in ("", "sage"):
            return False
        return module == self._module or _is_found(top)


@functools.cache
def _is_found(top: str) -> bool:
    """Whether it was imported from a file, and not from an installed one: those are too much to look at."""
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not file.startswith(_INSTALLED)


def _parts(member: Any) -> Iterator[Any]:
    """The functions that a member of a class is made of, or itself."""
    if isinstance(member, property):
        yield from (part for part in (member.fget, member.fset) if part is not None)
    elif isinstance(member, functools.cached_property):
        yield member.func
    elif not isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        yield member.__func__ if isinstance(member, _WRAPPED) else member


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
