"""Every mistake in a pipeline that can be found before it runs, found at once."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from sage.errors import PipelineError
from sage.flow.callables import accepts, binds, call_of, is_coroutine, is_generator, is_operator_class, opens_async
from sage.flow.options import ALLOWED, CALLS, complaint_about, options_of
from sage.flow.pipeline import Pipeline
from sage.flow.shipping import culprit
from sage.flow.sink import Sink
from sage.flow.source import Source
from sage.flow.step import ADAPTIVE, OTHERWISE, Input, Kind, Reduction, Step
from sage.flow.topology import cycle

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    options = options_of(step)
    for option, value in options.items():
        if option not in allowed:
            near = difflib.get_close_matches(option, [*allowed, "name"], n=1)
            hint = f"{near[0]}=" if near else f"one of: {', '.join(sorted([*allowed, 'name']))}"
            yield PipelineError("E214", f"{step.kind} has no option {option!r}", at=_at(step), try_=hint)
        elif complaint := complaint_about(option, value):
            yield PipelineError("E216", f"bad value for {option}", at=_at(step), got=repr(value), expected=complaint)
    yield from _adaptive_problems(step, options)


def _adaptive_problems(step: Step, options: Mapping[str, Any]) -> Iterator[PipelineError]:
    """Numbers that are to be found: of calls of an async operator, of threads of another."""
    is_async = callable(step.operator) and is_coroutine(call_of(step.operator))
    concurrency = options.get("concurrency")
    if isinstance(concurrency, str) and concurrency == ADAPTIVE and callable(step.operator) and not is_async:
        yield PipelineError(
            "E216", "only calls of an async operator can be adaptive", at=_at(step), got=step.operator,
            expected="a number of threads", try_="parallelism='adaptive', concurrency=8, or async def",
        )  # fmt: skip
    if options.get("parallelism") != ADAPTIVE:
        return
    if step.kind not in CALLS or is_async:
        yield PipelineError(
            "E216", "only replicas of a blocking function can be adaptive", at=_at(step), got=step.operator,
            expected="a number", try_="concurrency='adaptive', for an async function",
        )  # fmt: skip
    elif "concurrency" in options:
        yield PipelineError(
            "E216", "adaptive parallelism is how many calls there are", at=_at(step), try_="leave concurrency out"
        )


def _operator_problems(step: Step) -> Iterator[PipelineError]:
    if step.kind is Kind.READ:
        if not isinstance(step.operator, Source):
            yield PipelineError(
                "E217", "read needs a Source", at=_at(step), got=step.operator,
                try_="Items(...) for a Python iterable, JsonLines(path) for a file",
            )  # fmt: skip
    elif step.kind is Kind.WRITE:
        yield from _sink_problems(step)
    elif step.kind is Kind.ROUTE:
        yield from _route_problems(step)
    elif isinstance(step.operator, Reduction):
        for role, function in (("add", step.operator.add), ("initial", step.operator.initial)):
            if function is not None:
                yield from _callable_problems(step, function, role, arguments=2 if role == "add" else 0)
    elif not _needs_no_operator(step):
        yield from _callable_problems(step, step.operator, "operator")
    on_error = step.options.get("on_error")
    if callable(on_error):
        yield from _callable_problems(step, on_error, "on_error function", arguments=2)


def _needs_no_operator(step: Step) -> bool:
    """Nothing is called, or a key is the name of a field, or the record itself."""
    if step.kind in (Kind.KEY_BY, Kind.ORDER_BY) and isinstance(step.operator, str):
        return True
    return step.kind in (Kind.UNION, Kind.COLLECT) or (step.kind is Kind.KEY_BY and step.operator is None)


def _route_problems(step: Step) -> Iterator[PipelineError]:
    for branch, predicate in step.operator:
        yield from _callable_problems(step, predicate, f"predicate of branch {branch!r}")
    if not step.operator:
        yield PipelineError("E217", "route needs at least one branch", at=_at(step), try_="route(name=predicate)")
    if any(branch == OTHERWISE for branch, _ in step.operator):
        yield PipelineError(
            "E217", f"{OTHERWISE!r} is the branch of all other records", at=_at(step), try_="another name"
        )


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
            "E217", f"the {role} cannot be called", at=_at(step), got=operator,
            expected="a function or an object with __call__",
        )  # fmt: skip
        return
    yield from _style_problems(step, operator, role)
    yield from _argument_problems(step, operator, role, arguments)
    found = culprit(operator, role)
    if found is not None:
        path, value = found
        yield PipelineError(
            "E215", f"the {role} cannot be pickled, so it cannot be copied to where it runs", at=_at(step),
            got=f"{path} of type {type(value).__module__}.{type(value).__qualname__}",
            try_="make it in open(context), or, for a function, inside the function",
        )  # fmt: skip


def _style_problems(step: Step, operator: Any, role: str) -> Iterator[PipelineError]:
    """Generators and async functions where nobody would iterate over them or await them."""
    call = call_of(operator)
    if is_generator(call) and not (step.kind is Kind.FLAT_MAP and role == "operator"):
        yield PipelineError(
            "E222", f"the {role} is a generator function", at=_at(step), got=operator,
            try_="flat_map, or return one value",
        )  # fmt: skip
    if (step.kind not in CALLS or role != "operator") and is_coroutine(call):
        yield PipelineError(
            "E219", f"the {role} is async, but {step.kind} calls it synchronously", at=_at(step), got=operator
        )
    if not is_coroutine(call) and opens_async(operator):
        yield PipelineError(
            "E219", f"open or close of the {role} is async, but its __call__ is not", at=_at(step), got=operator
        )


def _argument_problems(step: Step, operator: Any, role: str, arguments: int) -> Iterator[PipelineError]:
    if is_operator_class(operator) and not binds(operator, 0):
        yield PipelineError(
            "E223", f"the {role} is a class that needs arguments", at=_at(step), got=operator, try_="an instance of it"
        )
    if not accepts(operator, arguments):
        yield PipelineError(
            "E223", f"the {role} cannot be called with {arguments} positional arguments", at=_at(step), got=operator,
            expected=f"a callable with {arguments} required arguments",
            try_="functools.partial, or defaults for the others",
        )  # fmt: skip


def _graph_problems(steps: Sequence[Step]) -> Iterator[PipelineError]:
    if not any(step.kind is Kind.READ for step in steps):
        yield PipelineError("E210", "the pipeline reads nothing", try_="pipeline.read(source)")
        return
    by_name = {step.name: step for step in steps}
    used = {source for step in steps for source in step.inputs}
    used_steps = {source.step for source in used}
    for step in steps:
        yield from _input_problems(step, by_name)
        yield from _output_problems(step, used, used_steps)
    circle = cycle(steps) if len(by_name) == len(steps) else []  # where two have one name, that is the mistake
    if circle:
        yield PipelineError("E212", "the steps form a cycle", got=" -> ".join(circle))


def _input_problems(step: Step, by_name: Mapping[str, Step]) -> Iterator[PipelineError]:
    for source in step.inputs:
        if source.step not in by_name:
            yield PipelineError("E220", "input from a step of another pipeline", at=_at(step), got=source.step)
        elif step.kind is Kind.REDUCE and by_name[source.step].kind is not Kind.KEY_BY:
            yield PipelineError(
                "E225", "reduce needs a keyed stream", at=_at(step), try_=".key_by(...) directly before it"
            )


def _output_problems(step: Step, used: Set[Input], used_steps: Set[str]) -> Iterator[PipelineError]:
    if step.kind is Kind.ROUTE:
        for branch, _ in step.operator:
            if Input(step.name, branch) not in used:
                yield PipelineError(
                    "E221", f"branch {branch!r} is not used", at=_at(step),
                    try_="write it somewhere, or drop it with filter",
                )  # fmt: skip
    elif step.kind not in (Kind.WRITE, Kind.COLLECT) and step.name not in used_steps:
        yield PipelineError(
            "E211", "no sink: the output of this step goes nowhere", at=_at(step), try_=".write(sink) or .collect()"
        )
