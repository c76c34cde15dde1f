"""What a durable step's results are kept under changes with everything that its operator is, and with nothing else."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.runtime.durability.fingerprint import fingerprint

LIBRARY = """
LIMIT = {in_library}

def helper(n):
    return n + {helper}

class Base:
    rate = {base_value}
    __slots__ = ("_slot",)
    def ask(self, n):
        return n * {base_method}

class Mixin:
    @property
    def more(self):
        return {of_property}
    @classmethod
    def made(cls):
        return cls({of_class_method})
"""
OPERATOR = """
import re, threading
from functools import partial
import library
from library import Base, Mixin

SETTING = {constant}

class Inner:
    __slots__ = ("deep", "itself")
    def __init__(self, deep):
        self.deep = deep
        self.itself = self

class Ask(Base, Mixin):
    __slots__ = ("public", "_private", "__hidden", "lock", "nested", "pattern", "bound")
    def __init__(self):
        self.public = {public}
        self._private = {private}
        self.__hidden = {hidden}
        self._slot = {slot}
        self.lock = threading.Lock()
        self.nested = [{{"x": (Inner({nested}), {{Inner(1), "a", "b"}})}}]
        self.pattern = re.compile("a" * 300 + "{pattern}")
        self.bound = partial(lambda n, m={default}: n + m, {bound})
    def __call__(self, n):
        return self.ask(n) + library.helper(n) + SETTING + (library.LIMIT if n else 0)

operator = Ask()
"""
NAMES = (
    "in_library", "helper", "base_value", "base_method", "of_property", "of_class_method", "constant", "public",
    "private", "hidden", "slot", "nested", "pattern", "default", "bound",
)  # fmt: skip
ORDINARY = dict.fromkeys(NAMES, 1)


def module(name: str, source: str, folder: Path) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__file__ = str(folder / f"{name}.py")
    sys.modules[name] = made
    exec(compile(source, name, "exec", dont_inherit=True), vars(made))
    return made


def fingerprint_of(values: dict[str, int]) -> str:
    before = {name: sys.modules.get(name) for name in ("library", "operators")}
    try:
        module("library", LIBRARY.format(**values), Path.cwd())
        return fingerprint(module("operators", OPERATOR.format(**values), Path.cwd()).operator)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


@pytest.mark.parametrize("name", NAMES)
def test_each_part_of_an_operator_counts(name: str) -> None:
    assert fingerprint_of(ORDINARY) != fingerprint_of(ORDINARY | {name: 2})


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(2, 4))), min_size=2, max_size=2))
def test_operators_are_the_same_if_and_only_if_all_of_them_is(both: list[dict[str, int]]) -> None:
    one, other = both
    assert (fingerprint_of(one) == fingerprint_of(other)) is (one == other)
    assert fingerprint_of(one) == fingerprint_of(dict(one))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


class Holder:
    def __init__(self, value: Any) -> None:
        self._value = (object, value)

    def __call__(self, n: int) -> int:
        return n


@given(PLAIN, PLAIN)
def test_what_is_held_counts_wherever_it_is(one: Any, other: Any) -> None:
    same = repr(one) == repr(other)
    if same or one != other:  # True and 1 are equal, and are not the same
        assert (fingerprint(Holder(one)) == fingerprint(Holder(other))) is same or _as_sorted(one) == _as_sorted(other)


def _as_sorted(value: Any) -> str:
    """Dicts are the same in whatever order their keys are."""
    if isinstance(value, dict):
        return repr(sorted((key, _as_sorted(inner)) for key, inner in value.items()))
    return repr([_as_sorted(inner) for inner in value]) if isinstance(value, list) else repr(value)


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(LIBRARY.format(**ORDINARY))
    (tmp_path / "operators.py").write_text(OPERATOR.format(**ORDINARY))
    program = (
        "from operators import operator; from sage.runtime.durability.fingerprint import fingerprint; "
        "print(fingerprint(operator))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
