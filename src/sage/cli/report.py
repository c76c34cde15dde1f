"""How a run ended: in words for people, as JSON for programs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from sage.cli.figures import count, line_width, seconds, step_table
from sage.cli.reasons import kinds_of, told
from sage.connectors.output import FileSink
from sage.connectors.sqlite import SQLite
from sage.errors import SageError, shorten
from sage.flow.pipeline import Pipeline
from sage.flow.step import Kind
from sage.runtime.durable import StepBill
from sage.runtime.outcome import RunResult, Status


def in_words(result: RunResult, pipeline: Pipeline) -> list[str]:
    """The lines that end a run: figures of the steps, how it ended, the account, where everything is."""
    lines = _table(result) if result.account.read or result.error is None else []
    ended = f"{result.pipeline}: {result.status} in {seconds(result.elapsed_s)}"
    ended += f", {count(_per_second(result.account.read, result))} records/s"
    lines += [ended, f"  {result.account}"]
    lines += [f"  it began again where it stood, because {loss}" for loss in result.restarts]
    if result.earlier:
        who = "earlier runs of the job" if not result.restarts else "what ran before"
        lines.append(f"  {who} had finished {result.earlier:,} records")
    lines += [_billed(step) for step in result.bill if step.reused or step.adopted]
    if result.p50_s is not None:
        lines.append(f"  from read to written: p50 {seconds(result.p50_s)}, p99 {seconds(result.p99_s)}")
    if result.status in (Status.SUCCEEDED, Status.SUCCEEDED_WITH_DEAD_LETTERS):
        outputs = outputs_of(pipeline)
        lines += [f"  written to {', '.join(outputs)}"] if outputs else []
    elif result.goes_on:
        lines.append("  outputs are not in place yet; the same command goes on from here")
    elif result.put_aside:
        lines.append(f"  outputs were not replaced; what was finished is in {', '.join(result.put_aside)}")
    else:
        lines.append("  outputs were not replaced")
    if result.dead_letters is not None:
        shown = shorten(str(result.dead_letters), 300)
        lines.append(f"  dead letters are in {shown} (sage dead-letters list {shown})")
        lines += told(kinds_of(result.dead_letters), line_width())
    return lines


def _table(result: RunResult) -> list[str]:
    rates = {step.name: _per_second(step.received, result) for step in result.steps}
    return step_table(result.steps, rates, bottleneck_of(result), line_width(), running=False)


def as_json(result: RunResult, pipeline: Pipeline) -> str:
    """The same as one JSON object on one line."""
    return _dumped(
        pipeline=result.pipeline,
        run_id=result.run_id,
        status=result.status.value,
        account=asdict(result.account),
        elapsed_s=result.elapsed_s,
        records_per_s=_per_second(result.account.read, result),
        p50_s=result.p50_s,
        p99_s=result.p99_s,
        bottleneck=bottleneck_of(result),
        steps=[asdict(step) for step in result.steps],
        outputs=outputs_of(pipeline),
        put_aside=list(result.put_aside),
        earlier=result.earlier,
        restarts=list(result.restarts),
        bill=[asdict(step) for step in result.bill],
        notices=list(result.notices),
        dead_letters=None if result.dead_letters is None else str(result.dead_letters),
        error=None if result.error is None else _error(result.error),
    )


def failure_as_json(error: SageError) -> str:
    """A run that did not begin."""
    return _dumped(status=Status.FAILED.value, error=_error(error))


def bottleneck_of(result: RunResult) -> str | None:
    """The step whose slots were busiest."""
    busiest = max(result.steps, key=lambda step: step.utilisation(result.elapsed_s), default=None)
    return busiest.name if busiest is not None and busiest.busy_s > 0 else None


def outputs_of(pipeline: Pipeline) -> list[str]:
    """Where the pipeline writes to, as the user would call it."""
    return [_place(step.operator) for step in pipeline.steps if step.kind is Kind.WRITE]


def _billed(step: StepBill) -> str:
    reused = f"{step.reused:,} reused ({step.reused_tokens:,} tokens)"
    adopted = f"{step.adopted:,} of other jobs ({step.adopted_tokens:,})"
    return f"  calls of {step.step!r}: {step.paid:,} paid ({step.paid_tokens:,} tokens), {reused}, {adopted}"


def _place(sink: object) -> str:
    if isinstance(sink, FileSink):
        return shorten(os.fspath(sink.path), 300)
    if isinstance(sink, SQLite):
        return shorten(f"{os.fspath(sink.path)}, table {sink.table}", 300)
    return shorten(type(sink).__name__)


def _error(error: SageError) -> dict[str, Any]:
    return {"code": error.code, "text": str(error), "exit_code": error.exit_code}


def _dumped(**fields: Any) -> str:
    return json.dumps(fields, allow_nan=False)


def _per_second(number: int, result: RunResult) -> float:
    return number / result.elapsed_s if result.elapsed_s > 0 else 0.0
