"""What can be known of an operator, or another callable of the user's, without calling it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from sage.flow.operator import Operator


def is_operator_class(operator: Any) -> bool:
    """A class whose instances can be called, and which so stands for an instance made without arguments."""
    return isinstance(operator, type) and any("__call__" in vars(cls) for cls in operator.__mro__)


def call_of(operator: Any) -> Any:
    """The function that a call of `operator` runs."""
    if is_operator_class(operator):
        return operator.__call__
    while hasattr(operator, "func") and hasattr(operator, "keywords"):  # functools.partial
        operator = operator.func
    if inspect.isroutine(operator) or isinstance(operator, type):
        return operator
    return type(operator).__call__


def is_coroutine(call: Any) -> bool:
    """Whether `call`, a function that `call_of` gave, has to be awaited."""
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def is_generator(call: Any) -> bool:
    """Whether `call` gives its results one by one."""
    return inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)


def opens_async(operator: Any) -> bool:
    """Whether its `open` or `close` would have to be awaited."""
    if inspect.isroutine(operator) or (isinstance(operator, type) and not is_operator_class(operator)):
        return False
    return any(is_coroutine(getattr(operator, name, None)) for name in ("open", "close"))


def default_options(operator: Any) -> Mapping[str, Any]:
    """The step options that an `Operator` class brings along."""
    if isinstance(operator, Operator) or (isinstance(operator, type) and issubclass(operator, Operator)):
        return operator.step_options
    return {}


def accepts(operator: Any, arguments: int) -> bool:
    """Whether `operator` can be called with so many positional arguments, as far as that can be known."""
    if is_operator_class(operator):
        return binds(operator.__call__, arguments + 1)
    return binds(operator, arguments)


def binds(function: Any, arguments: int) -> bool:
    """The same of a plain callable; of a class, whether an instance can be made with so many."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return True
    try:
        signature.bind(*([None] * arguments))
    except TypeError:
        return False
    return True
