"""The user's Python file: found, executed as ``__main__``, and searched for its pipeline."""

from __future__ import annotations

import difflib
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, TracebackType

from sage.cli.files import read_file
from sage.cli.near_miss import meant
from sage.errors import PipelineError, SageError, UsageError, shorten
from sage.flow.pipeline import Pipeline
from sage.runtime.run import RUNNER, Runner


@contextmanager
def executed(path: str, arguments: Sequence[str], runner: Runner) -> Iterator[ModuleType]:
    """Execute the file at `path` as ``__main__``, with `runner` behind ``sage.run``; inside, it stays ``__main__``.

    Raises `UsageError` if there is no such Python file, and `PipelineError` that names the line where the file raised;
    SAGE's own errors and SystemExit pass.
    """
    code = _compiled(path)
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    before = sys.modules["__main__"], sys.argv, list(sys.path)
    sys.modules["__main__"] = module
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    token = RUNNER.set(runner)
    try:
        _execute(code, module, path)
        yield module
    finally:
        RUNNER.reset(token)
        sys.modules["__main__"], sys.argv, sys.path[:] = before


def pipeline_of(module: ModuleType, path: str, name: str | None = None) -> Pipeline:
    """The pipeline called `name`; without one, the variable ``pipeline``, or the only pipeline that there is."""
    found = list({id(value): value for value in vars(module).values() if isinstance(value, Pipeline)}.values())
    names = [shorten(pipeline.name, 80) for pipeline in found]
    if not found:
        raise UsageError(
            "E125", "there is no pipeline in this file", at=shorten(path),
            try_='pipeline = sage.Pipeline("name") at the top level of the file',
        )  # fmt: skip
    if name is not None:
        chosen = [pipeline for pipeline in found if pipeline.name == name]
        if len(chosen) != 1:
            near = difflib.get_close_matches(name, names, n=1) or names
            raise UsageError(
                "E126", "there is no such pipeline in this file", at=shorten(path), got=name, expected=", ".join(names),
                try_=f"--pipeline {near[0]}",
            )  # fmt: skip
        return chosen[0]
    variable = vars(module).get("pipeline")
    if isinstance(variable, Pipeline):
        return variable
    if len(found) > 1:
        raise UsageError(
            "E126", "there are several pipelines in this file", at=shorten(path), got=", ".join(names),
            try_=f"--pipeline {names[0]}" if len(set(names)) == len(names) else "a name of its own for each",
        )  # fmt: skip
    return found[0]


def check_meant(chosen: Pipeline, name: str | None, path: str) -> None:
    """Raise `UsageError` if the file at `path` runs `chosen` itself, and another one, `name`, was asked for."""
    if name not in (None, chosen.name):
        raise UsageError(
            "E126", "the file runs another pipeline itself", at=shorten(path), got=chosen.name, expected=name,
            try_="leave --pipeline out, or take sage.run out of the file",
        )  # fmt: skip


def _execute(code: types.CodeType, module: ModuleType, path: str) -> None:
    try:
        exec(code, module.__dict__)
    except SageError:
        raise
    except Exception as error:
        raise PipelineError(
            "E250", "the file raised an error", at=_place(error.__traceback__, path), got=error, try_=meant(error)
        ) from error


def _place(trace: TracebackType | None, path: str) -> str:
    """``file:line`` of the innermost line of the user's file; where it stands in a module of theirs, that line too."""
    place, inner = path, path
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        inner = f"{file}:{trace.tb_lineno}"
        if file == path:
            place = inner
        trace = trace.tb_next
    near = os.path.dirname(os.path.abspath(path)) + os.sep
    return shorten(f"{place} (in {inner})" if inner != place and inner.startswith(near) else place)


def _compiled(path: str) -> types.CodeType:
    source = read_file(path, "Python file", (".py",))
    if b"\0" in source:
        raise UsageError("E124", "this is not a Python file", at="FILE", got=path, expected="text, without zero bytes")
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise PipelineError(
            "E251", "the file is not valid Python", at=f"{shorten(path)}:{error.lineno or 1}", got=error.msg
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError("E124", "this is not a Python file", at="FILE", got=f"{path} ({error})") from error
