"""The page of public names, from what their docstrings begin with: ``python tests/docs/names.py > docs/names.md``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

MODULES = (
    "sage", "sage.flow", "sage.runtime", "sage.connectors", "sage.llm", "sage.llm.simulated", "sage.rag", "sage.queues",
    "sage.scheduling", "sage.cluster", "sage.gateway", "sage.simulation", "sage.testing", "sage.testing.network",
)  # fmt: skip
HEAD = """# Public names

Every name that may be imported, with the first sentence of its docstring; `help(sage.Pipeline)` shows the rest. What is
not here is nobody's but SAGE's own, and may change from one version to the next. `python tests/docs/names.py` prints
this page.
"""


def page() -> str:
    """The whole text of docs/names.md."""
    return HEAD + "".join(f"\n## {name}\n{_about(import_module(name))}" for name in MODULES)


def _about(module: ModuleType) -> str:
    rows = "".join(f"| `{name}` | {_first_sentence(getattr(module, name))} |\n" for name in _names(module))
    return f"{_sentence_of(module)}\n\n| name | what it is |\n|---|---|\n{rows}"


def _names(module: ModuleType) -> Iterator[str]:
    """Without what `sage` shows too."""
    elsewhere = set() if module.__name__ == "sage" else set(import_module("sage").__all__)
    return (name for name in sorted(module.__all__, key=str.lower) if name not in elsewhere)


def _first_sentence(value: object) -> str:
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return f"({type(value).__name__})"
    return _sentence_of(value)


def _sentence_of(value: object) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    found = re.match(r"(.+?\.)(?: [A-Z`]|$)", text)
    return (found[1] if found else text).replace("|", "\\|").replace("``", "`").removesuffix("::").rstrip()


if __name__ == "__main__":
    print(page(), end="")
