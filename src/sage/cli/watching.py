"""A job on the command line: started, watched, stopped by Ctrl-C, and its end told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TextIO

import click

from sage.cli.commands import Invocation
from sage.cli.figures import line_width
from sage.cli.progress import View, view_for
from sage.cli.report import as_json, in_words
from sage.cli.stderr import say
from sage.cli.why import placements, routes, times
from sage.flow.pipeline import Pipeline
from sage.runtime.job import Job
from sage.runtime.outcome import RunOptions, RunResult, Status
from sage.runtime.run import interrupts, job_of

LOOK_EVERY_S = 0.2


@dataclass
class Watcher:
    """Runs pipelines the way the command line says, and keeps their results."""

    invocation: Invocation
    quiet: bool = False
    explain: bool = False
    json_to: TextIO | None = None
    """Where every result goes as a line of JSON, if anywhere."""
    results: list[RunResult] = field(default_factory=list)

    def run(
        self, pipeline: Pipeline, options: RunOptions, conclude: Callable[[RunResult], RunResult] | None = None
    ) -> RunResult:
        """Run to the end and tell how it ended, after `conclude` has seen to it.

        Raises, as `sage.run` does, the error of a run that failed, and KeyboardInterrupt after one that was stopped.
        """
        said: list[str] = []
        result = follow(
            pipeline, options, view_for(quiet=self.quiet), on_start=lambda job: self._notice(job.notices, said)
        )
        self._notice(result.notices, said)
        if conclude is not None:
            result = conclude(result)
        self.results.append(result)
        self._tell(result, pipeline)
        if result.error is not None:
            raise result.error
        if result.status is Status.CANCELLED:
            self.invocation.reported = interrupt = KeyboardInterrupt(f"stopped: {result.account}")
            raise interrupt
        return result

    def _notice(self, notices: Sequence[str], said: list[str]) -> None:
        """Each once: at the start of a run, or when it has come up since."""
        for notice in notices:
            if notice not in said and not self.quiet:
                said.append(notice)
                say(notice)

    def _tell(self, result: RunResult, pipeline: Pipeline) -> None:
        if not self.quiet:
            say("\n".join(in_words(result, pipeline)))
        if self.explain:
            placed, routed = [asdict(each) for each in result.placed], [asdict(each) for each in result.routes]
            lines = [*placements(placed), *routes(routed)] or ["everything ran in this process: there was no choice"]
            lines += times([asdict(step) for step in result.steps], line_width() - 2)
            say("\n".join(["why", *(f"  {line}" for line in lines)]))
        if self.json_to is not None:
            click.echo(as_json(result, pipeline), file=self.json_to)


def follow(
    pipeline: Pipeline, options: RunOptions, view: View, on_look: Callable[[Job], None] | None = None, *,
    on_start: Callable[[Job], None] | None = None,
) -> RunResult:  # fmt: skip
    """Run `pipeline` and show it until it has ended. Ctrl-C once stops it, twice ends it at once.

    `on_start` is called when it has started, `on_look` as often as it is shown.
    """
    job = job_of(pipeline, options)
    with interrupts(job):  # before it starts, or a Ctrl-C in between would leave it half done
        job.start()
        try:
            if on_start is not None:
                on_start(job)
            with view:
                return _shown(job, view, on_look)
        except BaseException:  # showing it failed: the job must not go on unseen
            job.abort()
            job.wait()
            raise


def _shown(job: Job, view: View, on_look: Callable[[Job], None] | None) -> RunResult:
    while True:
        try:
            return job.wait(LOOK_EVERY_S)
        except TimeoutError:
            view.show(job.snapshot())
            if on_look is not None:
                on_look(job)
