"""What of a pipeline a job directory cannot keep as it keeps the rest: said when the run starts."""

from __future__ import annotations

from sage.flow.graph import ExecutionGraph, StepPlan
from sage.flow.step import Kind


def doubts_of(graph: ExecutionGraph) -> tuple[str, ...]:
    """A line for each step that a record may reach twice, or may be lost from, when the run is cut off and goes on."""
    return tuple(doubt for plan in graph.steps.values() if (doubt := _doubt(plan)) is not None)


def _doubt(plan: StepPlan) -> str | None:
    what = f"step {plan.name!r} ({type(plan.operator).__name__})"
    if plan.kind is Kind.WRITE and plan.operator.safe == "at_write" and not plan.operator.idempotent:
        return f"W310 {what} may be given a record again, with the same rid, if the run is cut off and goes on"
    if plan.kind is Kind.READ and not plan.operator.replayable:
        return f"W310 {what} cannot be read again: if the run is cut off, what it gave and is not kept yet is lost"
    return None
