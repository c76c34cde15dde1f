"""The plan of a run on its way to all hosts: only what they need of the graph, packed once."""

from __future__ import annotations

from dataclasses import replace

from sage.errors import PipelineError
from sage.flow.graph import ExecutionGraph, StepPlan
from sage.flow.shipping import pack
from sage.runtime.deadletters import reason_of
from sage.runtime.messages import Parcel, Plan


def packed(plan: Plan) -> Parcel:
    """Raises `PipelineError` if something in it cannot be sent; for operators, the checks have said so before."""
    try:
        data, buffers = pack(replace(plan, graph=_without_home(plan.graph)))
    except Exception as error:
        raise PipelineError(
            "E215", "the pipeline cannot be pickled, so it cannot be sent to other processes",
            at=f"pipeline {plan.graph.pipeline!r}", got=reason_of(error), try_="processes=1",
        ) from error  # fmt: skip
    return data, [bytes(buffer.raw()) for buffer in buffers]


def _without_home(graph: ExecutionGraph) -> ExecutionGraph:
    """The graph as other hosts need it: what runs only here is left out, and need not be picklable."""
    steps = {name: plan if plan.movable else _outline(plan) for name, plan in graph.steps.items()}
    return replace(graph, steps=steps)


def _outline(plan: StepPlan) -> StepPlan:
    return replace(plan, operator=None, on_error=plan.on_error if isinstance(plan.on_error, str) else "dead_letter")
