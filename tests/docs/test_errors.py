"""docs/errors.md has every code that the source has, once."""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

from sage.errors import SageError

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"E\d{3}(?= |$)")
ROW = re.compile(r"^\| (E\d{3}) \| (.+) \|$", re.MULTILINE)


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(file.read_text()) for file in sorted((ROOT / "src" / "sage").rglob("*.py"))]


def codes_in_source() -> set[str]:
    """Texts that are a code, or begin with one; not docstrings, which begin with words."""
    texts = [node.value for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {found[0] for text in texts if isinstance(text, str) and (found := CODE.match(text))}


def classes(base: type[SageError] = SageError) -> set[type[SageError]]:
    return {base}.union(*map(classes, base.__subclasses__()))


def test_every_code_has_one_row() -> None:
    rows = ROW.findall((ROOT / "docs" / "errors.md").read_text())
    assert {code for code, _ in rows} == codes_in_source()
    assert [code for code, count in Counter(code for code, _ in rows).items() if count > 1] == []
    assert [meaning for meaning, count in Counter(meaning for _, meaning in rows).items() if count > 1] == []


def test_a_code_is_always_raised_as_the_same_class() -> None:
    names = {cls.__name__ for cls in classes()}
    raised = defaultdict(set)
    for call in (node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        for argument in call.args[:1]:
            if name in names and isinstance(argument, ast.Constant) and CODE.fullmatch(str(argument.value)):
                raised[argument.value].add(name)
    assert len(raised) > 100
    assert {code: found for code, found in raised.items() if len(found) > 1} == {}


def test_every_exit_code_has_a_row() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert {cls.exit_code for cls in classes()} | {0, 1, 8, 130, 141} == {int(code) for code in rows}
