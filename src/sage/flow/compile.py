"""From a Pipeline to an ExecutionGraph: options decided, steps fused into tasks, edges between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sage.errors import PipelineError
from sage.flow.callables import call_of, is_coroutine, is_operator_class
from sage.flow.check import problems
from sage.flow.graph import RECORDS_PER_BATCH, Edge, ExecutionGraph, Mode, StepPlan, TaskPlan
from sage.flow.options import CALLS, options_of
from sage.flow.pipeline import Pipeline
from sage.flow.step import ADAPTIVE, Kind, Step
from sage.flow.topology import topological

ASYNC_CONCURRENCY = 64
"""Calls in flight of an async step that asks for no number."""
MOST_ADAPTIVE_CONCURRENCY = 4096
"""What an adaptive step never exceeds."""
MOST_REPLICAS = 72
"""Threads of a step with adaptive parallelism at most: 64, and as many more as every second round tries without."""
ADAPTIVE_CAPACITY = 512
"""Records in the inbox of an adaptive step: so many calls can be started at once, before the source is asked."""
LONGEST_CHAIN = 64
"""Steps in one task at most: each takes a few of the 1,000 stack frames that Python allows."""


def compile_pipeline(pipeline: Pipeline, processes: int = 1, *, on_cluster: bool = False) -> ExecutionGraph:
    """Check the whole pipeline and compile it. Raises one `PipelineError` that lists every problem found.

    With several `processes`, steps that keep a processor busy get an instance for each, unless they say otherwise.
    `on_cluster`, those whose calls overlap may leave home too, if they state a `parallelism` or `resources`.
    """
    check_pipeline(pipeline)
    plans = {step.name: _plan(step) for step in pipeline.steps}
    order = topological({name: plan.inputs for name, plan in plans.items()})
    if processes > 1 or on_cluster:
        decided = {step.name for step in pipeline.steps if "parallelism" in options_of(step)}
        _spread(plans, order, decided, processes, on_cluster=on_cluster)
    return _fuse(pipeline.name, plans, order)


def check_pipeline(pipeline: Pipeline) -> None:
    """Raise one `PipelineError` for every problem found."""
    found = problems(pipeline)
    if found:
        raise PipelineError.of(pipeline.name, found)


def _spread(
    plans: dict[str, StepPlan], order: Sequence[str], decided: set[str], processes: int, *, on_cluster: bool
) -> None:
    """Mark the steps that may run in other processes, and give those that are not `decided` an instance for each.

    A step whose calls overlap waits more than it works: it stays. So do sources, sinks and reductions. The others go
    where their input is. What stands before an `order_by` has one instance, because several would mix up the order.
    """
    before_order: set[str] = set()
    for plan in map(plans.__getitem__, reversed(order)):
        if plan.kind is Kind.ORDER_BY or plan.name in before_order:
            before_order |= {plan.name, *(source.step for source in plan.inputs)}
    for name in order:
        plan = plans[name]
        inputs = [plans[source.step] for source in plan.inputs]
        if plan.kind in CALLS:
            overlaps = plan.is_async or plan.concurrency != 1
            movable = not overlaps or (on_cluster and (name in decided or bool(plan.resources)))
            parallelism = 1 if overlaps else processes
        else:
            follows = plan.kind in (Kind.KEY_BY, Kind.ORDER_BY, Kind.ROUTE, Kind.UNION)
            movable = follows and all(source.movable for source in inputs)
            parallelism = max((source.parallelism for source in inputs), default=1)
        if name in decided or name in before_order or not movable:
            parallelism = plan.parallelism
        plans[name] = replace(plan, movable=movable, parallelism=parallelism)


def _plan(step: Step) -> StepPlan:
    operator = step.operator
    if is_operator_class(operator):
        operator = operator()
    options = options_of(step)
    is_async = step.kind in CALLS and is_coroutine(call_of(operator))
    concurrency = options.get("concurrency", ASYNC_CONCURRENCY if is_async else 1)
    parallelism = options.get("parallelism", 1)
    replicated = parallelism == ADAPTIVE
    adaptive = concurrency == ADAPTIVE
    return StepPlan(
        name=step.name,
        kind=step.kind,
        operator=operator,
        inputs=step.inputs,
        is_async=is_async,
        batch_size=options.get("batch_size"),
        concurrency=MOST_REPLICAS if replicated else MOST_ADAPTIVE_CONCURRENCY if adaptive else concurrency,
        parallelism=1 if replicated else parallelism,
        durable=options.get("durable", False),
        retries=options.get("retries", 0),
        timeout_s=options.get("timeout_s"),
        on_error=options.get("on_error", "dead_letter"),
        resources=options.get("resources", {}),
        adaptive=adaptive or replicated,
    )


class _Draft:
    """A task while it is being put together."""

    def __init__(self, head: StepPlan, *, ordered: bool) -> None:
        self.head = head
        self.steps = [head.name]
        self.ordered = ordered

    @property
    def mode(self) -> Mode:
        if self.head.kind is Kind.READ:
            return Mode.SOURCE
        if self.head.is_async:
            return Mode.ASYNC
        return Mode.THREADS if self.head.concurrency > 1 else Mode.INLINE

    def takes(self, plan: StepPlan) -> bool:
        """Whether `plan` can run behind the other steps, on their thread, without a queue between."""
        return (
            self.mode in (Mode.SOURCE, Mode.INLINE)
            and len(self.steps) < LONGEST_CHAIN
            and not plan.is_async
            and plan.concurrency == 1
            and plan.batch_size is None
            and plan.parallelism == self.head.parallelism
            and plan.movable == self.head.movable
            and not (plan.kind is Kind.REDUCE and plan.parallelism > 1)
        )

    def plan(self) -> TaskPlan:
        head, mode = self.head, self.mode
        take = head.batch_size or (1 if mode in (Mode.THREADS, Mode.ASYNC) else RECORDS_PER_BATCH)
        if head.adaptive and head.is_async:
            capacity = ADAPTIVE_CAPACITY * take * head.parallelism
        elif mode in (Mode.THREADS, Mode.ASYNC) or head.batch_size:
            capacity = max(2 * take * head.concurrency * head.parallelism, 32)
        else:
            capacity = RECORDS_PER_BATCH
        keyed = head.parallelism > 1 and (head.kind is Kind.REDUCE or self.ordered)
        return TaskPlan(
            name=head.name,
            mode=mode,
            steps=tuple(self.steps),
            ordered=self.ordered,
            instances=head.parallelism,
            capacity=0 if mode is Mode.SOURCE else capacity,
            take=take,
            keyed=keyed,
            movable=head.movable,
        )


def _fuse(pipeline: str, plans: Mapping[str, StepPlan], order: Sequence[str]) -> ExecutionGraph:
    drafts: dict[str, _Draft] = {}  # by step
    tasks: list[_Draft] = []
    edges: list[Edge] = []
    ordered: dict[str, bool] = {}
    for plan in map(plans.__getitem__, order):
        ordered[plan.name] = plan.kind is Kind.ORDER_BY or (
            plan.kind not in (Kind.KEY_BY, Kind.REDUCE)
            and bool(plan.inputs)
            and all(ordered[source.step] for source in plan.inputs)
        )
        before = {drafts[source.step].head.name: drafts[source.step] for source in plan.inputs}
        only = next(iter(before.values())) if len(before) == 1 else None
        if only is not None and only.takes(plan):
            only.steps.append(plan.name)
            drafts[plan.name] = only
            continue
        drafts[plan.name] = draft = _Draft(plan, ordered=ordered[plan.name])
        tasks.append(draft)
        edges += [Edge(source, plan.name) for source in plan.inputs]
    return ExecutionGraph(pipeline, plans, tuple(draft.plan() for draft in tasks), tuple(edges))
