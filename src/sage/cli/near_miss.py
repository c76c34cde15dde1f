"""What was probably meant by a name that does not exist: a method of a pipeline, or a name to import from SAGE."""

from __future__ import annotations

import difflib
import re
from importlib import import_module

_ROOMS = ("sage", "sage.connectors", "sage.rag")
"""Where the names of a pipeline file come from."""
_IMPORT = re.compile(r"cannot import name '(\w+)' from '(sage[\w.]*)'")


def meant(error: Exception) -> str | None:
    """A suggestion for `error`, if it is about a name."""
    if isinstance(error, ImportError) and (found := _IMPORT.match(str(error))):
        return _to_import(found[1])
    if not isinstance(error, AttributeError) or not error.name:
        return None
    if getattr(error.obj, "__name__", None) in _ROOMS:
        return _to_import(error.name)
    if not type(error.obj).__module__.startswith("sage."):
        return None
    names = [name for name in dir(error.obj) if not name.startswith("_")]
    near = difflib.get_close_matches(error.name, names, n=1)
    return f".{near[0]}" if near else f"one of {', '.join(names)}"


def _to_import(name: str) -> str | None:
    homes = {public: room for room in reversed(_ROOMS) for public in import_module(room).__all__}
    small = {public.lower(): public for public in homes}
    near = difflib.get_close_matches(name.lower(), small, n=1)
    return f"from {homes[small[near[0]]]} import {small[near[0]]}" if near else None
