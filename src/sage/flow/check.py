"""Every mistake in a pipeline that can be found before it runs, found at once."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sage.errors import PipelineError
from sage.flow.operator import Operator
from sage.flow.pipeline import Pipeline
from sage.flow.shipping import culprit
from sage.flow.sink import Sink
from sage.flow.source import Source
from sage.flow.step import ADAPTIVE, OTHERWISE, Input, Kind, Reduction, Step

MAX_SECONDS = 1_000_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_CALLS = frozenset({"concurrency", "parallelism", "durable", "retries", "timeout_s", "on_error", "resources"})
ALLOWED: Mapping[Kind, frozenset[str]] = {
    Kind.READ: frozenset(),
    Kind.MAP: _CALLS | {"batch_size"},
    Kind.FLAT_MAP: _CALLS,
    Kind.FILTER: _CALLS,
    Kind.KEY_BY: frozenset({"on_error"}),
    Kind.ORDER_BY: frozenset({"on_error"}),
    Kind.REDUCE: frozenset({"parallelism"}),
    Kind.ROUTE: frozenset(),
    Kind.UNION: frozenset(),
    Kind.WRITE: frozenset({"retries"}),
    Kind.COLLECT: frozenset(),
}
"""The options of each kind of step, beside `name`."""
CALLS = (Kind.MAP, Kind.FLAT_MAP, Kind.FILTER)
"""The kinds whose operators may be async, and may bring options along."""


def problems(pipeline: Pipeline) -> list[PipelineError]:
    """All mistakes, in the order of the steps; empty if the pipeline can be compiled."""
    found = list(_name_problems(pipeline))
    for step in pipeline.steps:
        found += _option_problems(step)
        found += _operator_problems(step)
    found += _graph_problems(pipeline.steps)
    return found


def _at(step: Step) -> str:
    return f"step {step.name!r} ({step.place})" if step.place else f"step {step.name!r}"


def _name_problems(pipeline: Pipeline) -> Iterator[PipelineError]:
    expected = "letters, digits, '.', '_' or '-', beginning with a letter or digit, at most 64"
    if not _is_name(pipeline.name):
        yield PipelineError("E201", "bad pipeline name", got=pipeline.name, expected=expected)
    for step in pipeline.steps:
        if step.named and not _is_name(step.name):
            yield PipelineError("E201", "bad step name", at=_at(step), got=step.name, expected=expected)
    for name, count in Counter(step.name for step in pipeline.steps).items():
        if count > 1:
            places = ", ".join(step.place for step in pipeline.steps if step.name == name)
            yield PipelineError(
                "E213", f"{count} steps are named {name!r}", at=places, try_="give each a name of its own with name="
            )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _option_problems(step: Step) -> Iterator[PipelineError]:
    allowed = ALLOWED[step.kind]
    brought = default_options(step.operator) if step.kind in CALLS else {}
    for option, value in {**brought, **step.options}.items():
        if option not in allowed:
            near = difflib.get_close_matches(option, [*allowed, "name"], n=1)
            hint = f"{near[0]}=" if near else f"one of: {', '.join(sorted([*allowed, 'name']))}"
            yield PipelineError("E214", f"{step.kind} has no option {option!r}", at=_at(step), try_=hint)
        else:
            complaint = _VALUES[option](value)
            if complaint:
                yield PipelineError("E216", f"bad value for {option}", at=_at(step), got=value, expected=complaint)
    options = {**brought, **step.options}
    yield from _adaptive_problems(step, options.get("concurrency"))
    yield from _replica_problems(step, options)


def _replica_problems(step: Step, options: Mapping[str, Any]) -> Iterator[PipelineError]:
    if options.get("parallelism") != ADAPTIVE:
        return
    if step.kind not in CALLS or (callable(step.operator) and is_coroutine(call_of(step.operator))):
        yield PipelineError(
            "E216", "only replicas of a blocking function can be adaptive", at=_at(step), got=step.operator,
            expected="a number", try_="concurrency='adaptive', for an async function",
        )  # fmt: skip
    elif "concurrency" in options:
        yield PipelineError(
            "E216", "adaptive parallelism is how many calls there are", at=_at(step), try_="leave concurrency out"
        )


def _adaptive_problems(step: Step, concurrency: object) -> Iterator[PipelineError]:
    is_plain = callable(step.operator) and not is_coroutine(call_of(step.operator))
    if isinstance(concurrency, str) and concurrency == ADAPTIVE and is_plain:
        yield PipelineError(
            "E216",
            "only calls of an async operator can be adaptive",
            at=_at(step),
            got=step.operator,
            expected="a number of threads",
            try_="parallelism='adaptive', concurrency=8, or async def",
        )


def _count(value: Any) -> str | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000
    return None if ok else "a whole number from 1 to 1,000,000"


def _count_or_adaptive(value: Any) -> str | None:
    if isinstance(value, str) and value == ADAPTIVE:
        return None
    complaint = _count(value)
    return complaint and f"{complaint}, or {ADAPTIVE!r}"


def _retries(value: Any) -> str | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000
    return None if ok else "a whole number from 0 to 1,000"


def _seconds(value: Any) -> str | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS
    return None if ok else f"seconds, a number above 0 and at most {MAX_SECONDS:,}"


def _on_error(value: Any) -> str | None:
    ok = value in ("dead_letter", "fail") if isinstance(value, str) else callable(value)
    return None if ok else "'dead_letter', 'fail', or a function of (record, error)"


def _amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _resources(value: Any) -> str | None:
    ok = isinstance(value, Mapping) and all(isinstance(k, str) and _amount(v) for k, v in value.items())
    return None if ok else "a mapping of resource names to numbers above 0"


_VALUES: Mapping[str, Callable[[Any], str | None]] = {
    "batch_size": _count,
    "concurrency": _count_or_adaptive,
    "parallelism": _count_or_adaptive,
    "durable": lambda value: None if isinstance(value, bool) else "True or False",
    "retries": _retries,
    "timeout_s": _seconds,
    "on_error": _on_error,
    "resources": _resources,
}


def _operator_problems(step: Step) -> Iterator[PipelineError]:
    if step.kind is Kind.READ:
        if not isinstance(step.operator, Source):
            yield PipelineError(
                "E217",
                "read needs a Source",
                at=_at(step),
                got=step.operator,
                try_="Items(...) for a Python iterable, JsonLines(path) for a file",
            )
    elif step.kind is Kind.WRITE:
        yield from _sink_problems(step)
    elif step.kind is Kind.ROUTE:
        for branch, predicate in step.operator:
            yield from _callable_problems(step, predicate, f"predicate of branch {branch!r}")
        if not step.operator:
            yield PipelineError("E217", "route needs at least one branch", at=_at(step), try_="route(name=predicate)")
        if any(branch == OTHERWISE for branch, _ in step.operator):
            yield PipelineError(
                "E217", f"{OTHERWISE!r} is the branch of all other records", at=_at(step), try_="another name"
            )
    elif isinstance(step.operator, Reduction):
        for role, function in (("add", step.operator.add), ("initial", step.operator.initial)):
            if function is not None:
                yield from _callable_problems(step, function, role, arguments=2 if role == "add" else 0)
    elif step.kind not in (Kind.UNION, Kind.COLLECT) and not (
        (step.kind in (Kind.KEY_BY, Kind.ORDER_BY) and isinstance(step.operator, str))
        or (step.kind is Kind.KEY_BY and step.operator is None)
    ):
        yield from _callable_problems(step, step.operator, "operator")
    on_error = step.options.get("on_error")
    if callable(on_error):
        yield from _callable_problems(step, on_error, "on_error function", arguments=2)


def _sink_problems(step: Step) -> Iterator[PipelineError]:
    if isinstance(step.operator, Sink):
        return
    if callable(step.operator) or not isinstance(step.operator, Source):
        yield PipelineError(
            "E218",
            "this cannot be a sink, because it cannot take rids",
            at=_at(step),
            got=step.operator,
            expected="a Sink, whose writer takes write(records, rids)",
            try_="a class derived from sage.Sink, or .map(function) before a sink",
        )
    else:
        yield PipelineError("E217", "this is a Source, not a Sink", at=_at(step), got=step.operator)


def _callable_problems(step: Step, operator: Any, role: str, arguments: int = 1) -> Iterator[PipelineError]:
    if not callable(operator):
        yield PipelineError(
            "E217",
            f"the {role} cannot be called",
            at=_at(step),
            got=operator,
            expected="a function or an object with __call__",
        )
        return
    call = call_of(operator)
    if is_generator(call) and not (step.kind is Kind.FLAT_MAP and role == "operator"):
        yield PipelineError(
            "E222",
            f"the {role} is a generator function",
            at=_at(step),
            got=operator,
            try_="flat_map, or return one value",
        )
    if (step.kind not in CALLS or role != "operator") and is_coroutine(call):
        yield PipelineError(
            "E219", f"the {role} is async, but {step.kind} calls it synchronously", at=_at(step), got=operator
        )
    if not is_coroutine(call) and _opens_async(operator):
        yield PipelineError(
            "E219", f"open or close of the {role} is async, but its __call__ is not", at=_at(step), got=operator
        )
    if is_operator_class(operator) and not _accepts_arguments(operator, 0):
        yield PipelineError(
            "E223", f"the {role} is a class that needs arguments", at=_at(step), got=operator, try_="an instance of it"
        )
    if not _accepts(operator, arguments):
        yield PipelineError(
            "E223",
            f"the {role} cannot be called with {arguments} positional arguments",
            at=_at(step),
            got=operator,
            expected=f"a callable with {arguments} required arguments",
            try_="functools.partial, or defaults for the others",
        )
    found = culprit(operator, role)
    if found is not None:
        path, value = found
        yield PipelineError(
            "E215",
            f"the {role} cannot be pickled, so it cannot be copied to where it runs",
            at=_at(step),
            got=f"{path} of type {type(value).__module__}.{type(value).__qualname__}",
            try_="make it in open(context), or, for a function, inside the function",
        )


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
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def is_generator(call: Any) -> bool:
    return inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)


def _opens_async(operator: Any) -> bool:
    """Nobody would await them: the calls of a plain operator run on a thread."""
    if inspect.isroutine(operator) or (isinstance(operator, type) and not is_operator_class(operator)):
        return False
    return any(is_coroutine(getattr(operator, name, None)) for name in ("open", "close"))


def default_options(operator: Any) -> Mapping[str, Any]:
    """The step options that an `Operator` class brings along."""
    if isinstance(operator, Operator) or (isinstance(operator, type) and issubclass(operator, Operator)):
        return operator.step_options
    return {}


def _accepts(operator: Any, arguments: int) -> bool:
    if is_operator_class(operator):
        return _accepts_arguments(operator.__call__, arguments + 1)
    return _accepts_arguments(operator, arguments)


def _accepts_arguments(function: Any, arguments: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return True
    try:
        signature.bind(*([None] * arguments))
    except TypeError:
        return False
    return True


def _graph_problems(steps: Sequence[Step]) -> Iterator[PipelineError]:
    if not any(step.kind is Kind.READ for step in steps):
        yield PipelineError("E210", "the pipeline reads nothing", try_="pipeline.read(source)")
        return
    by_name = {step.name: step for step in steps}
    used = {source for step in steps for source in step.inputs}
    used_steps = {source.step for source in used}
    for step in steps:
        for source in step.inputs:
            if source.step not in by_name:
                yield PipelineError("E220", "input from a step of another pipeline", at=_at(step), got=source.step)
        if step.kind is Kind.ROUTE:
            for branch, _ in step.operator:
                if Input(step.name, branch) not in used:
                    yield PipelineError(
                        "E221",
                        f"branch {branch!r} is not used",
                        at=_at(step),
                        try_="write it somewhere, or drop it with filter",
                    )
        elif step.kind not in (Kind.WRITE, Kind.COLLECT) and step.name not in used_steps:
            yield PipelineError(
                "E211", "no sink: the output of this step goes nowhere", at=_at(step), try_=".write(sink) or .collect()"
            )
        if step.kind is Kind.REDUCE and any(
            by_name[s.step].kind is not Kind.KEY_BY for s in step.inputs if s.step in by_name
        ):
            yield PipelineError(
                "E225", "reduce needs a keyed stream", at=_at(step), try_=".key_by(...) directly before it"
            )
    circle = cycle(steps) if len(by_name) == len(steps) else []  # where two have one name, that is the mistake
    if circle:
        yield PipelineError("E212", "the steps form a cycle", got=" -> ".join(circle))


def topological(inputs: Mapping[str, Sequence[Input]]) -> list[str]:
    """The steps, each behind those it takes its input from, otherwise in the given order; those in and behind a circle
    are left out."""
    before = {name: {source.step for source in sources} & inputs.keys() for name, sources in inputs.items()}
    behind: dict[str, list[str]] = {}
    for name, sources in before.items():
        for source in sources:
            behind.setdefault(source, []).append(name)
    open_inputs = {name: len(sources) for name, sources in before.items()}
    ready = [name for name, count in open_inputs.items() if count == 0]
    for name in ready:  # grows
        for target in behind.get(name, ()):
            open_inputs[target] -= 1
            if open_inputs[target] == 0:
                ready.append(target)
    return ready


def cycle(steps: Sequence[Step]) -> list[str]:
    """The names of steps that wait for one another in a circle; empty if there is none."""
    inputs = {step.name: step.inputs for step in steps}
    waiting = inputs.keys() - topological(inputs)
    if not waiting:
        return []
    walk = [min(waiting)]
    while (back := min(source.step for source in inputs[walk[-1]] if source.step in waiting)) not in walk:
        walk.append(back)
    return [back, *reversed(walk[walk.index(back) :])]
