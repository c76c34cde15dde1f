"""Operators made of other frameworks' parts: a LangChain runnable, a Haystack component.

Neither package is imported here. What they promise is all that is used of them: ``ainvoke(value)`` of a runnable;
``run(**inputs)``, which returns a dict, and ``warm_up()`` of a component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from sage.errors import PipelineError, RecordError
from sage.flow.operator import Operator, OperatorContext
from sage.rag.embed import Record


@runtime_checkable
class Runnable(Protocol):
    """What is used of LangChain's class of this name."""

    async def ainvoke(self, value: Any, /) -> Any: ...


@runtime_checkable
class Component(Protocol):
    """What is used of a Haystack component, which may also have ``warm_up()``."""

    def run(self, **inputs: Any) -> Mapping[str, Any]: ...


@runtime_checkable
class _Warming(Protocol):
    def warm_up(self) -> None: ...


def from_langchain(
    runnable: Runnable | Callable[[], Runnable], *, field: str | None = "question", into: str = "answer"
) -> LangChainOperator:
    """An operator that puts the runnable's result for ``record[field]`` in ``record[into]``.

    With ``field=None`` the runnable gets the whole record.

    Give a function without arguments that makes the runnable, if the runnable itself cannot be pickled.
    """
    return LangChainOperator(runnable, field, into)


def from_haystack(
    component: Component | Callable[[], Component],
    *,
    inputs: Mapping[str, str],
    output: str | None = None,
    into: str = "answer",
) -> HaystackOperator:
    """An operator that runs the component and puts its output socket `output` in ``record[into]``.

    `inputs` says which key of the record goes into which input socket: ``{"query": "question"}``. Without `output`, all
    output sockets are put there as a dict. Give a function without arguments that makes the component, if it cannot be
    pickled.
    """
    return HaystackOperator(component, dict(inputs), output, into)


class LangChainOperator(Operator):
    """See `from_langchain`. Async; many records are in flight at once."""

    step_options: ClassVar[Mapping[str, Any]] = {"concurrency": 16}

    def __init__(self, runnable: Runnable | Callable[[], Runnable], field: str | None, into: str) -> None:
        self.runnable = runnable
        self.field = field
        self.into = into
        self._live: Runnable | None = None

    def open(self, context: OperatorContext | None = None) -> None:
        made = not isinstance(self.runnable, Runnable) or isinstance(self.runnable, type)
        live: object = self.runnable() if made and callable(self.runnable) else self.runnable
        if not isinstance(live, Runnable):
            raise _not_a("LangChain runnable", live, "an object with ainvoke()")
        self._live = live

    async def __call__(self, record: Record) -> Record:
        if self._live is None:
            self.open()
        assert self._live is not None
        value = record if self.field is None else _given(record, self.field, "from_langchain")
        return {**record, self.into: await self._live.ainvoke(value)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}


class HaystackOperator(Operator):
    """See `from_haystack`. Components are not made for several threads, so each instance runs one record at a time."""

    def __init__(
        self, component: Component | Callable[[], Component], inputs: dict[str, str], output: str | None, into: str
    ) -> None:
        self.component = component
        self.inputs = inputs
        self.output = output
        self.into = into
        self._live: Component | None = None

    def open(self, context: OperatorContext | None = None) -> None:
        made = not isinstance(self.component, Component) or isinstance(self.component, type)
        live: object = self.component() if made and callable(self.component) else self.component
        if not isinstance(live, Component):
            raise _not_a("Haystack component", live, "an object with run()")
        if isinstance(live, _Warming):
            live.warm_up()
        self._live = live

    def __call__(self, record: Record) -> Record:
        if self._live is None:
            self.open()
        assert self._live is not None
        inputs = {socket: _given(record, key, "from_haystack") for socket, key in self.inputs.items()}
        outputs = self._live.run(**inputs)
        if self.output is None:
            return {**record, self.into: dict(outputs)}
        if self.output not in outputs:
            raise RecordError(
                "E463",
                "the component has no such output",
                at="from_haystack",
                got=", ".join(outputs),
                expected=self.output,
            )
        return {**record, self.into: outputs[self.output]}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}


def _given(record: Record, key: str, adapter: str) -> Any:
    if key not in record:
        raise RecordError("E461", "the record lacks a value", at=f"{adapter}, key {key!r}", got=record)
    return record[key]


def _not_a(kind: str, got: object, expected: str) -> PipelineError:
    return PipelineError(
        "E267", f"this is not a {kind}, and does not make one", got=type(got).__name__, expected=expected
    )
