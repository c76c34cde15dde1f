"""Pipeline and Stream: how a pipeline is written down. Data only; `sage.run` makes it run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack, cast

from sage.flow.sink import Writable
from sage.flow.source import Source
from sage.flow.step import OTHERWISE, Input, Kind, Reduction, Step, StepOptions


class Pipeline:
    """A named graph of steps.

    ::

        pipeline = sage.Pipeline("squares")
        pipeline.read(Items(range(10))).map(lambda x: x * x).write(JsonLines("squares.jsonl"))

    Nothing is checked until the pipeline is compiled (`sage.run`, `sage.compile_pipeline`), so that
    all mistakes are reported together.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._steps: list[Step] = []
        self._used: dict[str, int] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order in which they were added."""
        return tuple(self._steps)

    @classmethod
    def of(cls, name: str, steps: Sequence[Step]) -> Pipeline:
        """A pipeline of steps that are there already, for those who rewrite pipelines."""
        pipeline = cls(name)
        pipeline._steps += steps
        return pipeline

    def read(self, source: Source, *, name: str | None = None) -> Stream:
        """Start a stream from `source`. A pipeline may read from several."""
        return self._add(Kind.READ, source, (), {} if name is None else {"name": name})

    def _add(self, kind: Kind, operator: Any, inputs: tuple[Input, ...], options: Mapping[str, Any]) -> Stream:
        options = dict(options)
        given = options.pop("name", None)
        name = self._unique(given if given is not None else _operator_name(kind, operator), named=given is not None)
        self._steps.append(Step(name, kind, operator, inputs, options, given is not None, _caller()))
        return Stream(self, Input(name))

    def _unique(self, name: str, *, named: bool) -> str:
        if named:
            return name
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self._steps)} steps)"


class Stream:
    """The output of a step, to which further steps are added. Using one stream twice sends its records both ways.

    An *operator* is a function, an async function, or an object with ``__call__`` (see `sage.Operator`). Options
    of the steps are those of `sage.flow.StepOptions`.
    """

    def __init__(self, pipeline: Pipeline, output: Input) -> None:
        self._pipeline = pipeline
        self._output = output

    def map(self, operator: Callable[..., Any], **options: Unpack[StepOptions]) -> Stream:
        """One record out for each record in. With ``batch_size=n`` the operator takes and returns lists."""
        return self._then(Kind.MAP, operator, options)

    def flat_map(self, operator: Callable[..., Any], **options: Unpack[StepOptions]) -> Stream:
        """Any number of records out for each record in: the operator returns an iterable, or is a generator."""
        return self._then(Kind.FLAT_MAP, operator, options)

    def filter(self, predicate: Callable[..., Any], **options: Unpack[StepOptions]) -> Stream:
        """Keep the records for which `predicate` is true; the others are counted as filtered."""
        return self._then(Kind.FILTER, predicate, options)

    def key_by(self, key: str | Callable[[Any], Any] | None = None, **options: Unpack[StepOptions]) -> KeyedStream:
        """Give each record a key (hashable): a function of it, the name of one of its fields, or the record itself."""
        return KeyedStream(self._pipeline, self._then(Kind.KEY_BY, key, options)._output)

    def order_by(self, key: str | Callable[[Any], Any], **options: Unpack[StepOptions]) -> Stream:
        """From here on, records with the same key keep the order of their source, whatever runs concurrently."""
        return self._then(Kind.ORDER_BY, key, options)

    def route(self, **branches: Callable[[Any], Any]) -> Branches:
        """Split by predicates: a record goes to the first branch whose predicate is true.

        ::

            branches = stream.route(simple=is_simple, hard=is_hard)
            branches.simple.map(...); branches.hard.map(...); branches.otherwise.map(...)

        A record that no branch takes goes to ``otherwise``; if that is not used, it becomes a dead letter.
        A named branch that is not used is a mistake, reported when the pipeline is compiled.
        """
        stream = self._then(Kind.ROUTE, tuple(branches.items()), {})
        return Branches(self._pipeline, stream._output.step, (*branches, OTHERWISE))

    def union(self, *others: Stream) -> Stream:
        """The records of all these streams, in no particular order."""
        outputs = tuple(self._output if s is self else s._seen_from(self._pipeline) for s in (self, *others))
        return self._pipeline._add(Kind.UNION, None, outputs, {})

    def write(self, sink: Writable, **options: Unpack[StepOptions]) -> None:
        """End the stream in `sink`: a `Sink`, or a file description such as `JsonLines`."""
        target: object = sink  # whatever else was given is reported with all other mistakes
        self._then(Kind.WRITE, target.sink() if isinstance(target, Writable) else target, options)

    def collect(self, name: str = "collect") -> None:
        """End the stream in a list in memory: ``sage.run(pipeline).collected(name)``."""
        self._then(Kind.COLLECT, None, {"name": name})

    def _then(self, kind: Kind, operator: Any, options: StepOptions | Mapping[str, Any]) -> Stream:
        return self._pipeline._add(kind, operator, (self._output,), cast("Mapping[str, Any]", options))

    def _seen_from(self, pipeline: Pipeline) -> Input:
        """This output; one of another pipeline under a name that the checks will not find in `pipeline`."""
        if self._pipeline is pipeline:
            return self._output
        return Input(f"{self._pipeline.name}/{self._output.step}", self._output.branch)

    def __repr__(self) -> str:
        return f"Stream({self._pipeline.name!r}, {self._output.step!r})"


class KeyedStream(Stream):
    """A stream whose records carry a key."""

    def reduce(self, add: Callable[[Any, Any], Any], **options: Unpack[StepOptions]) -> Stream:
        """One ``(key, value)`` per key at the end of the input: ``value = add(value, record)`` from the first on."""
        return self._then(Kind.REDUCE, Reduction(add, None), options)

    def aggregate(
        self, initial: Callable[[], Any], add: Callable[[Any, Any], Any], **options: Unpack[StepOptions]
    ) -> Stream:
        """One ``(key, value)`` per key at the end: ``value = add(value, record)``, beginning with ``initial()``."""
        return self._then(Kind.REDUCE, Reduction(add, initial), options)

    def count(self, **options: Unpack[StepOptions]) -> Stream:
        """One ``(key, number of records)`` per key at the end of the input; the quick way to count."""
        return self._then(Kind.REDUCE, Reduction(None, int), options)


class Branches:
    """The outputs of a `route`, by attribute or by item."""

    def __init__(self, pipeline: Pipeline, step: str, names: tuple[str, ...]) -> None:
        self._streams = {name: Stream(pipeline, Input(step, name)) for name in names}

    def __getattr__(self, name: str) -> Stream:
        if name.startswith("_") or name not in self._streams:
            raise AttributeError(f"no branch {name!r}; there are: {', '.join(self._streams)}")
        return self._streams[name]

    def __getitem__(self, name: str) -> Stream:
        return self._streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)


def _operator_name(kind: Kind, operator: Any) -> str:
    if kind in (Kind.ROUTE, Kind.UNION, Kind.COLLECT, Kind.KEY_BY, Kind.ORDER_BY):
        return kind.value
    if kind is Kind.REDUCE:
        return "count" if operator.add is None else "reduce"
    if kind in (Kind.READ, Kind.WRITE):
        return f"{kind.value}-{type(operator).__name__.removesuffix('Sink')}"
    name = operator.__name__ if isinstance(getattr(operator, "__name__", None), str) else type(operator).__name__
    return kind.value if name == "<lambda>" else name


def _caller() -> str:
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
