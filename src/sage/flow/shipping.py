"""Operators and records as bytes: how one description becomes a live copy in each place that runs it."""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

MAX_DEPTH = 6


def _pickled(operator: Any, apart: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """By reference where it can be imported, by value (cloudpickle) otherwise. Raises whatever its attributes raise."""
    if not _lives_in_main(operator):
        try:
            return pickle.dumps(operator, protocol=5, buffer_callback=apart)
        except Exception:  # noqa: BLE001 -- anything can go wrong in a user's __reduce__; cloudpickle has the last word
            pass
    import cloudpickle

    return bytes(cloudpickle.dumps(operator, protocol=5, buffer_callback=apart))


_OF_THE_SCRIPT = b"__main__"
LARGE_BYTES = 64 * 1024


def pack(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Records on their way to another process: bytes, and the large buffers in them, which are not copied.

    What stands in the user's script travels by value. Raises whatever the records raise when they cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < LARGE_BYTES:
            return True
        buffers.append(buffer)
        return False

    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=keep)
        if _OF_THE_SCRIPT not in data:
            return data, buffers
    except Exception:  # noqa: BLE001 -- as in `_pickled`
        pass
    buffers.clear()
    import cloudpickle

    return bytes(cloudpickle.dumps(value, protocol=5, buffer_callback=keep)), buffers


def unpack(data: bytes, buffers: Iterable[Any] = ()) -> Any:
    """What `pack` packed. Only for what came over an authenticated link, or through memory of this user's own."""
    return pickle.loads(data, buffers=buffers)  # noqa: S301 -- see above


def kept_apart(buffer: Any) -> pickle.PickleBuffer:
    """A buffer of `pack` as something that whoever pickles it keeps out of band, once more."""
    return pickle.PickleBuffer(buffer)


def clone(operator: Any) -> Any:
    """A copy of an operator object for one instance; plain functions have nothing to copy and are shared.

    So is what nobody can change: arrays in read-only memory, where a node keeps large constants once for all its hosts.
    """
    if isinstance(operator, types.FunctionType | types.BuiltinFunctionType | type):
        return operator
    shared: list[pickle.PickleBuffer] = []

    def copied(buffer: pickle.PickleBuffer) -> bool:
        if not buffer.raw().readonly:
            return True
        shared.append(buffer)
        return False

    return pickle.loads(_pickled(operator, copied), buffers=shared)  # noqa: S301 -- it was made here just now


def culprit(value: Any, path: str) -> tuple[str, Any] | None:
    """The attribute deepest inside `value` that cannot be pickled, as (path, object); None if all can be."""
    return _search(value, path, MAX_DEPTH, set())


def _search(value: Any, path: str, depth: int, seen: set[int]) -> tuple[str, Any] | None:
    if id(value) in seen or _is_plain(value) or _ships(value):
        return None
    seen.add(id(value))
    if depth > 0:
        for name, part in _parts(value):
            found = _search(part, f"{path}{name}", depth - 1, seen)
            if found is not None:
                return found
    return path, value


def _is_plain(value: Any) -> bool:
    """A function that holds nothing: no closure, no defaults, no globals but modules."""
    return (
        isinstance(value, types.FunctionType)
        and not value.__closure__
        and not value.__defaults__
        and not value.__kwdefaults__
        and not value.__dict__
        and all(
            isinstance(value.__globals__.get(name), types.ModuleType | types.NoneType)
            for name in value.__code__.co_names
        )
    )


def _ships(value: Any) -> bool:
    try:
        _pickled(value)
    except Exception:  # noqa: BLE001 -- the answer is no, whatever the reason
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty cell
                yield f" -> {name}", cell.cell_contents
        for index, default in enumerate(value.__defaults__ or ()):
            yield f" -> default argument {index}", default
        for name, default in (value.__kwdefaults__ or {}).items():
            yield f" -> default of {name}", default
        for name in value.__code__.co_names:
            if name in value.__globals__ and not isinstance(value.__globals__[name], types.ModuleType):
                yield f" -> global {name}", value.__globals__[name]
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    else:
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())


def _lives_in_main(operator: Any) -> bool:
    """Pickled by reference, what stands in ``__main__`` could not be found by another process."""
    kind = operator if isinstance(operator, type | types.FunctionType) else type(operator)
    return kind.__module__ == "__main__"
