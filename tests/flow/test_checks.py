"""Mistakes in a pipeline: found before it runs, all at once, each with its code, its step and its place."""

import functools
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import sage
from sage import Operator, Pipeline, PipelineError, compile_pipeline
from sage.connectors import Items, JsonLines
from sage.flow import Input, Kind, Step

LOCK = threading.Lock()


def same(x: Any) -> Any:
    return x


async def awaited(x: Any) -> Any:
    return x


def generator(x: Any) -> Iterator[Any]:
    yield x


async def async_generator(x: Any) -> Any:
    yield x


def mistakes(pipeline: Pipeline) -> list[PipelineError]:
    with pytest.raises(PipelineError) as caught:
        compile_pipeline(pipeline)
    assert caught.value.exit_code == 3
    return list(caught.value.problems) or [caught.value]


def mistakes_of(build: Any) -> list[PipelineError]:
    """The mistakes in what `build` makes of a stream."""
    pipeline = Pipeline("wrong")
    stream = build(pipeline.read(Items([1])))
    if stream is not None:
        stream.collect()
    return mistakes(pipeline)


def mistake(build: Any) -> PipelineError:
    """The only one."""
    (found,) = mistakes_of(build)
    return found


def test_every_mistake_is_told_with_its_step_and_place() -> None:
    pipeline = Pipeline("wrong")
    stream = pipeline.read(Items([1]))
    stream = stream.map(same, name="a", batch_sise=3)  # type: ignore[call-arg]
    stream.map(generator, name="b").filter(same, retries=-1, name="c").write(print)  # type: ignore[arg-type]
    stream.map(awaited, name="d").key_by(awaited, name="e")
    with pytest.raises(PipelineError) as caught:
        compile_pipeline(pipeline)
    assert str(caught.value).startswith("E200 6 problems in pipeline 'wrong':\n  E214")
    problems = caught.value.problems
    assert sorted(problem.code for problem in problems) == ["E211", "E214", "E216", "E218", "E219", "E222"]
    assert all(f"({__file__}:" in str(problem) for problem in problems)
    assert [f"step '{name}'" in str(problem) for name, problem in zip("abc", problems, strict=False)] == [True] * 3


def test_nothing_is_run_when_there_is_a_mistake() -> None:
    read: list[int] = []
    pipeline = Pipeline("wrong")
    pipeline.read(Items(lambda: read)).map(generator).collect()
    with pytest.raises(PipelineError, match="E222"):
        sage.run(pipeline)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a/b", "../a", "a" * 65, "ä", "a\0", 5, None])
def test_names_of_pipelines(name: Any) -> None:
    pipeline = Pipeline(name)
    pipeline.read(Items([1])).collect()
    (found,) = mistakes(pipeline)
    assert found.code == "E201"


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a/b", "../a", "a" * 65, "ä", "a\0", 5])
def test_names_of_steps(name: Any) -> None:
    assert mistake(lambda s: s.map(same, name=name)).code == "E201"


def test_a_name_that_was_given_twice() -> None:
    found = mistake(lambda s: s.map(same, name="x").map(same, name="x"))
    assert found.code == "E213"
    assert str(found).count(__file__) == 2


def test_steps_without_a_name_get_one_of_their_own() -> None:
    pipeline = Pipeline("named")
    pipeline.read(Items([1])).map(same).map(same).map(lambda x: x).map(functools.partial(same)).map(str).collect()
    assert [step.name for step in pipeline.steps] == [
        "read-Items",
        "same",
        "same-2",
        "map",
        "partial",
        "str",
        "collect",
    ]
    compile_pipeline(pipeline)


def test_nothing_is_read() -> None:
    (found,) = mistakes(Pipeline("empty"))
    assert found.code == "E210"


def test_no_sink() -> None:
    pipeline = Pipeline("wrong")
    pipeline.read(Items([1])).map(same)
    (found,) = mistakes(pipeline)
    assert (found.code, "step 'same'" in str(found)) == ("E211", True)


def cycle_of(*names: str) -> Pipeline:
    steps = [Step("read", Kind.READ, Items([1]), ())]
    steps += [
        Step(name, Kind.MAP, same, (Input(names[index - 1]), *([Input("read")] if index == 0 else [])))
        for index, name in enumerate(names)
    ]
    steps += [Step("end", Kind.COLLECT, None, (Input(names[-1]),))]
    return Pipeline.of("round", steps)


def test_cycles() -> None:
    (found,) = mistakes(cycle_of("a", "b", "c"))
    assert found.code == "E212"
    assert found.got in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c")
    (found,) = mistakes(cycle_of("a"))
    assert found.got == "a -> a"
    (found,) = mistakes(cycle_of(*(f"s{n}" for n in range(3000))))
    assert found.code == "E212"


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, x: Any) -> Any:
        return x


class KeywordOnly:
    def __init__(self) -> None:
        self.inner = {"deep": [Holder(threading.Lock())]}

    def __call__(self, x: Any) -> Any:
        return x


def with_cell() -> Any:
    client = threading.Lock()
    return lambda x: (x, client)


def with_default() -> Any:
    return lambda x, client=threading.Lock(): (x, client)  # noqa: B008 -- it is what the test is about


def with_keyword_default() -> Any:
    return lambda x, *, client=threading.Lock(): (x, client)  # noqa: B008 -- as above


@pytest.mark.parametrize(
    ("operator", "path"),
    [
        (Holder(threading.Lock()), "operator.held of type _thread.lock"),
        (KeywordOnly(), "operator.inner['deep'][0].held of type _thread.lock"),
        (with_cell(), "operator -> client of type _thread.lock"),
        (with_default(), "operator -> default argument 0 of type _thread.lock"),
        (with_keyword_default(), "operator -> default of client of type _thread.lock"),
        (lambda x: (x, LOCK), "operator -> global LOCK of type _thread.lock"),
        (Holder(threading.Lock()).__call__, "operator.__self__.held of type _thread.lock"),
        (functools.partial(with_cell()), "operator.func -> client of type _thread.lock"),
        (Holder(generator(1)), "operator.held of type builtins.generator"),
    ],
)
def test_operators_that_cannot_be_pickled(operator: Any, path: str) -> None:
    found = mistake(lambda s: s.map(operator))
    assert found.code == "E215"
    assert f"got {path}" in str(found)


def test_other_functions_that_cannot_be_pickled() -> None:
    assert mistake(lambda s: s.key_by(with_cell()).count()).code == "E215"
    assert mistake(lambda s: s.route(a=with_cell()).a).code == "E215"
    assert mistake(lambda s: s.map(same, on_error=lambda r, e: LOCK)).code == "E215"
    assert mistake(lambda s: s.key_by(str).reduce(lambda a, b: LOCK)).code == "E215"


@pytest.mark.parametrize(
    ("option", "hint"), [("batch_sise", "batch_size="), ("retires", "retries="), ("paralelism", "parallelism=")]
)
def test_options_that_there_are_not(option: str, hint: str) -> None:
    found = mistake(lambda s: s.map(same, **{option: 1}))
    assert found.code == "E214"
    assert f"Try: {hint}" in str(found)


def test_options_that_do_not_fit_the_step() -> None:
    assert "one of: name, on_error" in str(mistake(lambda s: s.order_by(str, colour=1)))
    assert mistake(lambda s: s.filter(same, batch_size=3)).code == "E214"
    assert mistake(lambda s: s.key_by(str).count(retries=3)).code == "E214"


BAD = [-1, 0, True, float("nan"), 1e99, "8", None, 1.5, [], 10**400]


@pytest.mark.parametrize("option", ["batch_size", "concurrency", "parallelism"])
@pytest.mark.parametrize("value", BAD)
def test_bad_counts(option: str, value: Any) -> None:
    assert mistake(lambda s: s.map(same, **{option: value})).code == "E216"


@pytest.mark.parametrize("kind", ["map", "filter", "flat_map"])
def test_only_async_operators_are_adaptive(kind: str) -> None:
    found = mistake(lambda s: getattr(s, kind)(same, concurrency="adaptive"))
    assert found.code == "E216"
    assert "async" in str(found)


def test_another_word_for_the_concurrency() -> None:
    assert "'adaptive'" in str(mistake(lambda s: s.map(awaited, concurrency="adaptative")))


@pytest.mark.parametrize("value", [*(v for v in BAD if v not in (0, 1.5) or v is True), float("inf"), 0])
@pytest.mark.parametrize("option", ["timeout_s", "retries"])
def test_bad_times_and_retries(option: str, value: Any) -> None:
    if option == "retries" and value == 0 and value is not True:
        value = 1001
    assert mistake(lambda s: s.map(same, **{option: value})).code == "E216"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("durable", 1), ("durable", "yes"), ("on_error", "ignore"), ("on_error", None), ("on_error", 3),
        ("resources", {"gpu": 0}), ("resources", {"gpu": -1}), ("resources", {1: 1}), ("resources", 4),
        ("resources", {"gpu": float("nan")}), ("resources", {"gpu": "1"}),
    ],
)  # fmt: skip
def test_other_bad_values(option: str, value: Any) -> None:
    assert mistake(lambda s: s.map(same, **{option: value})).code == "E216"


@pytest.mark.parametrize(
    "on_error", [lambda record: 1, lambda: 1, generator, lambda a, b, c: 1, functools.partial(same, 1)]
)
def test_on_error_functions_that_cannot_be(on_error: Any) -> None:
    assert "E223" in {found.code for found in mistakes_of(lambda s: s.map(same, on_error=on_error))}


def test_an_async_on_error_function() -> None:
    async def on_error(record: Any, error: Exception) -> Any:
        return record

    assert mistake(lambda s: s.map(awaited, on_error=on_error)).code == "E219"


class Brings(Operator):
    step_options: ClassVar[dict[str, Any]] = {"concurency": 3}

    def __call__(self, x: Any) -> Any:
        return x


class BringsBatches(Operator):
    step_options: ClassVar[dict[str, Any]] = {"batch_size": -3}

    def __call__(self, x: Any) -> Any:
        return x


def test_options_that_a_class_brings_along_are_checked_too() -> None:
    assert mistake(lambda s: s.map(Brings())).code == "E214"
    assert mistake(lambda s: s.map(BringsBatches)).code == "E216"
    assert mistake(lambda s: s.filter(BringsBatches())).code == "E214"


def test_what_is_no_source_and_what_is_no_sink() -> None:
    pipeline = Pipeline("wrong")
    pipeline.read([1, 2]).collect()  # type: ignore[arg-type]
    (found,) = mistakes(pipeline)
    assert (found.code, "Try: Items(...)" in str(found)) == ("E217", True)
    for sink in (print, [].append, "out.jsonl", None, object()):
        found = mistake(lambda s, sink=sink: s.write(sink))
        assert found.code == "E218"
        assert "rids" in str(found)
    assert mistake(lambda s: s.write(Items([]))).code == "E217"


@pytest.mark.parametrize("step", ["map", "filter", "flat_map", "key_by", "order_by"])
@pytest.mark.parametrize("operator", [5, "text", None, [same], {}])
def test_what_cannot_be_called(step: str, operator: Any) -> None:
    if (step in ("key_by", "order_by") and isinstance(operator, str)) or (step == "key_by" and operator is None):
        return  # the name of a field; the record itself

    def build(stream: Any) -> Any:
        made = getattr(stream, step)(operator)
        return made.count() if step == "key_by" else made

    assert mistake(build).code == "E217"


def test_generators_and_coroutines_where_they_cannot_be() -> None:
    for operator in (generator, async_generator):
        assert mistake(lambda s, operator=operator: s.map(operator)).code == "E222"
        assert mistake(lambda s, operator=operator: s.filter(operator)).code == "E222"
    assert mistake(lambda s: s.order_by(awaited)).code == "E219"
    assert mistake(lambda s: s.route(a=awaited).a).code == "E219"
    assert mistake(lambda s: s.key_by(str).aggregate(int, awaited_2)).code == "E219"


async def awaited_2(a: Any, b: Any) -> Any:
    return a


class OpensAsync:
    async def open(self, context: Any) -> None:
        return

    def __call__(self, x: Any) -> Any:
        return x


def test_an_async_open_that_nobody_would_await() -> None:
    assert mistake(lambda s: s.map(OpensAsync())).code == "E219"
    assert mistake(lambda s: s.map(OpensAsync)).code == "E219"


@pytest.mark.parametrize("operator", [lambda: 1, lambda a, b: 1, lambda *, a: 1, functools.partial(same, 1), Holder])
def test_wrong_numbers_of_arguments(operator: Any) -> None:
    assert mistake(lambda s: s.map(operator)).code == "E223"


@pytest.mark.parametrize(
    "operator", [str, int, len, functools.partial(max, 1), lambda a, b=1, *c, **d: a, str.upper, dict.fromkeys]
)
def test_operators_that_are_right(operator: Any) -> None:
    pipeline = Pipeline("right")
    pipeline.read(Items(["a"])).map(operator).collect()
    compile_pipeline(pipeline)


def test_routes() -> None:
    assert mistake(lambda s: s.route(a=same, b=same).a).code == "E221"
    taken = mistakes_of(lambda s: s.route(a=same, otherwise=same).a)
    assert [found.code for found in taken] == ["E217", "E221"]
    assert mistake(lambda s: s.route().otherwise).code == "E217"
    with pytest.raises(AttributeError, match="no branch 'c'; there are: a, otherwise"):
        Pipeline("routes").read(Items([])).route(a=same).c


def test_a_stream_of_another_pipeline() -> None:
    other = Pipeline("other").read(Items([2])).map(same, name="foreign")
    found = mistake(lambda s: s.union(other))
    assert (found.code, found.got) == ("E220", "other/foreign")


def test_a_stream_of_another_pipeline_whose_steps_have_the_same_names() -> None:
    other = Pipeline("other").read(Items([2]))
    assert mistake(lambda s: s.union(other)).code == "E220"


def test_a_reduction_needs_keys() -> None:
    pipeline = Pipeline("wrong")
    keyed = pipeline.read(Items([1])).key_by(str)
    sage.flow.KeyedStream(pipeline, keyed.map(same)._output).count().collect()
    (found,) = mistakes(pipeline)
    assert found.code == "E225"


def test_ten_thousand_steps() -> None:
    started = time.process_time()
    pipeline = Pipeline("long")
    stream = pipeline.read(Items([1]))
    for index in range(5000):
        stream = stream.map(same, name=f"s{index}")
    for index in range(4990):
        stream.filter(same, name=f"f{index}").write(JsonLines(f"{index}.jsonl"))
    graph = compile_pipeline(pipeline)
    assert len(graph.steps) == 5001 + 2 * 4990
    assert time.process_time() - started < 20  # a minute and more, if it were quadratic
