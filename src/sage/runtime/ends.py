"""Both ends of a pipeline, asked before a run begins: a missing file or model costs nothing then."""

from __future__ import annotations

from sage.errors import PipelineError, SageError
from sage.flow.graph import ExecutionGraph
from sage.flow.operator import Operator
from sage.flow.step import Kind


def check_ends(graph: ExecutionGraph) -> None:
    """Ask every source, sink and `Operator` whether it can work. Raises one error for all that cannot."""
    problems: list[SageError] = []
    for plan in graph.steps.values():
        if plan.kind in (Kind.READ, Kind.WRITE) or isinstance(plan.operator, Operator):
            try:
                plan.operator.check()
            except SageError as error:
                problems.append(error)
    if not problems:
        problems += _shared_partitions(graph)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise PipelineError("E200", f"{len(problems)} problems in pipeline {graph.pipeline!r}:{lines}")


def _shared_partitions(graph: ExecutionGraph) -> list[SageError]:
    """Two sources that give the same rids: an idempotent sink would take the second one's records for repeats."""
    readers: dict[str, str] = {}
    problems: list[SageError] = []
    for plan in graph.steps.values():
        for partition in plan.operator.partitions() if plan.kind is Kind.READ else ():
            first = readers.setdefault(partition, plan.name)
            if first != plan.name:
                problems.append(
                    PipelineError(
                        "E224",
                        "two sources give their records the same ids",
                        at=f"steps {first!r} and {plan.name!r}",
                        got=partition,
                        try_="use one stream twice, or give Items(...) a name of its own",
                    )
                )
    return problems
