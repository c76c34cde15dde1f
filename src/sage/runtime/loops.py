"""Generated loops: what a person would write by hand for a run of steps, and where a record stopped in it.

Without a `flat_map` at its head, a loop goes over the records of a batch. With one, it goes over the children of one
record after the other, while they are warm in the cache; the records that have no children yet are `parents`.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from sage.record import Batch
from sage.runtime.calls import CallStage, FilterStage, ReturnedNone
from sage.runtime.flattening import SIZED, FlatMapStage
from sage.runtime.keys import KeyStage, ReduceStage


class Stop(NamedTuple):
    """A record whose step raised."""

    at: int
    step: int
    value: Any
    """What the step was given."""
    key: Any
    error: Exception


class Passage:
    """One batch on its way through a loop, and what has become of its records."""

    __slots__ = ("broken", "dropped", "kept", "odd", "parents", "records", "results", "sizes", "stopped", "waiting")

    def __init__(self, batch: Batch, dropped: Sequence[int], *, divided: bool) -> None:
        self.parents: Iterator[Any] = iter(batch.records if divided else ())
        self.records: list[Any] = [] if divided else batch.records
        self.waiting = iter(self.records)
        self.sizes: list[int] = [] if divided else [len(batch)]
        """How many children each parent has, up to here."""
        self.broken: dict[int, Exception] = {}
        """Parents for which the operator raised (their size is 0)."""
        self.odd: dict[int, Any] = {}
        """Parents for which it returned something that is not sized (their size is 0)."""
        self.results: list[Any] = []
        self.kept: list[Any] = []
        """True: passed, False: filtered, None: stopped. Without a filter, only those that stopped."""
        self.dropped = list(dropped)
        self.stopped: list[Stop] = []


class Loop:
    """The loop of `calls`, each made once for a record, and of what stands around them."""

    def __init__(self, head: FlatMapStage | None, calls: Sequence[CallStage], reduction: ReduceStage | None) -> None:
        self._divides = head is not None
        self._filters = [index for index, stage in enumerate(calls) if isinstance(stage, FilterStage)]
        self._dropped = [0] * len(calls)
        names: dict[str, Any] = {"ReturnedNone": ReturnedNone}
        if head is not None:
            names |= {"divide": head.call, "SIZED": SIZED}
        if reduction is not None and counts(reduction):
            names |= {"chain": chain.from_iterable, "update": reduction.values.update}
            lines = _counting(len(calls))
        else:
            lines = _iterating(list(_body(calls, reduction, names)), divides=self._divides)
        self._run, self._step_of_line = self._compile(lines, names)

    def take(self, batch: Batch) -> Passage:
        """Run `batch` through. No function is called twice for a record because it, or another one, raised."""
        passage = Passage(batch, self._dropped, divided=self._divides)
        while True:
            try:
                self._add(passage, self._run(passage))
                return passage
            except Exception as error:  # noqa: BLE001 -- any exception of an operator is an outcome
                self._stop(passage, error)

    def _add(self, passage: Passage, dropped: Sequence[int]) -> None:
        for index, count in zip(self._filters, dropped, strict=True):
            passage.dropped[index] += count

    def _stop(self, passage: Passage, error: Exception) -> None:
        """Find by where the loop stood which record raised, and let `passage` go on behind it."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is not self._run.__code__:
            trace = trace.tb_next
        assert trace is not None
        found = trace.tb_frame.f_locals
        passage.records, passage.waiting = found["records"], found["waiting"]
        left = operator.length_hint(passage.waiting)
        value = found["value"] if "value" in found else passage.records[-left - 1]
        step = self._step_of_line[trace.tb_lineno]
        passage.stopped.append(Stop(sum(passage.sizes) - left - 1, step, value, found.get("key", value), error))
        passage.kept.append(None)
        self._add(passage, [found[f"dropped{index}"] for index in self._filters])

    def _compile(self, body: Iterable[Line], names: dict[str, Any]) -> tuple[Callable[..., Any], dict[int, int]]:
        """The function, and the step that each of its lines belongs to. What it calls is at hand as local names."""
        own = ("parents", "records", "waiting", "sizes", "broken", "odd", "results", "kept")
        lines = [(-1, f"def loop(passage, *, {', '.join(f'{name}={name}' for name in names)}):")]
        lines += [(-1, f"    {name} = passage.{name}") for name in own]
        lines += [(-1, f"    dropped{index} = 0") for index in self._filters]
        lines += _indented(body)
        lines.append((-1, f"    return ({''.join(f'dropped{index}, ' for index in self._filters)})"))
        exec(compile("\n".join(line for _, line in lines), "<fused steps>", "exec"), names)
        return names["loop"], {number: step for number, (step, _) in enumerate(lines, start=1)}


def counts(reduction: ReduceStage) -> bool:
    """Whether it only counts, which is quickest in one call for many records."""
    return isinstance(reduction.values, Counter)


Line = tuple[int, str]
"""The step it belongs to (-1: none), and the source."""

NEXT_CHILDREN = """\
try:
    children = divide(record)
except Exception as error:
    broken[len(sizes)] = error; sizes.append(0); continue
if type(children) is not list and type(children) not in SIZED:
    odd[len(sizes)] = children; sizes.append(0); continue
records = [*children]
sizes.append(len(records))
waiting = iter(records)
""".splitlines()
"""The list is copied, because a later step may change it: a node that takes itself from its parent's."""


def _iterating(body: Sequence[Line], *, divides: bool) -> Iterator[Line]:
    yield -1, "for value in waiting:"
    yield from _indented(body)
    if divides:
        yield -1, "for record in parents:"
        yield from _indented([(-1, line) for line in NEXT_CHILDREN])
        yield -1, "    for value in waiting:"
        yield from _indented(body, 2)


def _counting(step: int) -> Iterator[Line]:
    yield -1, "def families():"
    yield -1, "    nonlocal records, waiting"
    yield -1, "    yield waiting"
    yield -1, "    for record in parents:"
    yield from _indented([(-1, line) for line in NEXT_CHILDREN], 2)
    yield -1, "        yield waiting"
    yield step, "update(chain(families()))"


def _indented(lines: Iterable[Line], depth: int = 1) -> list[Line]:
    return [(step, "    " * depth + line) for step, line in lines]


def _body(calls: Sequence[CallStage], reduction: ReduceStage | None, names: dict[str, Any]) -> Iterator[Line]:
    """What is done with each `value`, and the names that this takes."""
    for index, stage in enumerate(calls):
        names[f"call{index}"] = stage.call
        for line in _lines(index, stage):
            yield index, line
    if reduction is None:
        yield -1, "results.append(value)"
    else:
        for line in reduction.fold_lines(names):
            yield len(calls), line
    if any(isinstance(stage, FilterStage) for stage in calls):
        yield -1, "kept.append(True)"


def _lines(index: int, stage: CallStage) -> Iterator[str]:
    if isinstance(stage, FilterStage):
        yield f"if not call{index}(value):"
        yield f"    dropped{index} += 1; kept.append(False); continue"
    elif isinstance(stage, KeyStage):
        yield "key = value" if stage.plan.operator is None else f"key = call{index}(value)"
    else:
        yield f"result = call{index}(value)"
        yield "if result is None:"
        yield "    raise ReturnedNone"
        yield "value = result"
