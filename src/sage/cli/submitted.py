"""``sage job execute``: what the process of a job does. Its supervisor starts it; nobody types it."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import click

from sage.cli.commands import invocation_of
from sage.cli.progress import PlainView
from sage.cli.report import as_json, failure_as_json, in_words
from sage.cli.run_options import beginning, chosen
from sage.cli.stderr import say
from sage.cli.user_file import check_meant, executed, pipeline_of
from sage.cli.watching import follow
from sage.errors import PipelineError, SageError, StorageError
from sage.flow.pipeline import Pipeline
from sage.jobs.folder import JobFolder, RunFolder, read_json, storing, write_json
from sage.jobs.job import JobSpec, stored_spec
from sage.jobs.states import State
from sage.runtime.job import Job
from sage.runtime.ledger import MAX_OPEN_RECORDS
from sage.runtime.outcome import JobSnapshot, RunOptions, RunResult, Status

WRITE_EVERY_S = 0.5


@click.command("execute", hidden=True)
@click.argument("folder")
@click.pass_context
def execute(context: click.Context, folder: str) -> None:
    """Run the job, of which FOLDER belongs to this run. How its pipelines end is written there, line by line."""
    run = RunFolder(Path(folder))
    folder_of_job = JobFolder(run.path.parent)
    spec = _spec_of(folder_of_job)
    said = asdict(spec)
    results: list[RunResult] = []

    def runner(pipeline: Pipeline, options: RunOptions) -> RunResult:
        check_meant(pipeline, spec.pipeline, spec.file)
        share = Share(folder_of_job)
        options = chosen(options, said)
        letters = options.dead_letters or run.path / f"{pipeline.name}.dead.jsonl"
        options = replace(options, dead_letters=letters, max_in_flight=share.in_flight)
        result = follow(beginning(pipeline, said), options, FiguresView(run.figures), share.give)
        results.append(result)
        _note(run, as_json(result, pipeline))
        say("\n".join(in_words(result, pipeline)))
        if result.error is not None:
            raise result.error
        if result.status is Status.CANCELLED:
            invocation_of(context).reported = interrupt = KeyboardInterrupt(f"stopped: {result.account}")
            raise interrupt
        return result

    try:
        _check_unchanged(spec)
        with executed(spec.file, spec.arguments, runner) as module:
            if not results:
                runner(pipeline_of(module, spec.file, spec.pipeline), RunOptions())
    except SageError as error:
        if not any(result.error is error for result in results):
            _note(run, failure_as_json(error))
        raise
    ended = {result.status for result in results}
    if ended <= {Status.SUCCEEDED, Status.SUCCEEDED_WITH_DEAD_LETTERS}:  # the file may have caught the error of a run
        dead = Status.SUCCEEDED_WITH_DEAD_LETTERS in ended
        with storing(run.success):
            run.write_success(State.SUCCEEDED_WITH_DEAD_LETTERS if dead else State.SUCCEEDED)


class FiguresView(PlainView):
    """Lines for the log now and then, and all figures in a file, for those who look."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._write_at_s = 0.0

    def show(self, snapshot: JobSnapshot) -> None:
        super().show(snapshot)
        now = time.monotonic()
        if now >= self._write_at_s:
            self._write_at_s = now + WRITE_EVERY_S
            about = {"bottleneck": snapshot.bottleneck, "stalled": snapshot.stalled, "at_s": now}
            figures = asdict(replace(snapshot, waits_for=None))  # an error, which `stalled` says
            with suppress(OSError):  # no room: those of a moment ago stay, and say how old they are
                write_json(self._path, figures | about, durable=False)


class Share:
    """The records that the job may have in flight, as the manager last said."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self.in_flight = self._read()

    def give(self, job: Job) -> None:
        """Tell `job`, if it has changed."""
        found = self._read()
        if found != self.in_flight:
            self.in_flight = found
            job.limit_in_flight(found or MAX_OPEN_RECORDS)

    def _read(self) -> int | None:
        return (read_json(self._folder.share) or {}).get("max_in_flight")


def _spec_of(folder: JobFolder) -> JobSpec:
    stored = read_json(folder.spec)
    if stored is None:
        raise StorageError("E604", "what was submitted cannot be read", at=str(folder.spec))
    return stored_spec(stored)


def _check_unchanged(spec: JobSpec) -> None:
    try:
        found = hashlib.sha256(Path(spec.file).read_bytes()).hexdigest()
    except OSError:
        return  # what executes the file says it better
    if found != spec.sha256:
        raise PipelineError(
            "E253",
            "the file was changed after the job was submitted",
            at=spec.file,
            try_=f"sage job submit {spec.file}",
        )


def _note(run: RunFolder, line: str) -> None:
    with suppress(OSError):  # no room: it is not what tells how the job ended
        run.add_result(line)
