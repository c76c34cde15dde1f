"""`run`, `start` and `compile`: the ways into the engine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

from sage.errors import UsageError
from sage.flow.compile import check_pipeline, compile_pipeline
from sage.flow.pipeline import Pipeline
from sage.runtime.job import Job
from sage.runtime.outcome import RunOptions, RunResult, Status
from sage.scheduling import scheduler_named

Runner = Callable[[Pipeline, RunOptions], RunResult]

ENGINES = ("local", "ray")
MOST_PROCESSES = 64
RUNNER: ContextVar[Runner | None] = ContextVar("sage_runner", default=None)
"""Set while the command line executes a user's file: `run` inside the file then runs the way the command line says."""


def run(
    pipeline: Pipeline,
    *,
    engine: str = "local",
    dead_letters: str | Path | None = None,
    max_dead_letters: int | None = None,
    append: bool = False,
    processes: int = 1,
    job_dir: str | Path | None = None,
    reuse: str | Path | None = None,
    address: str | None = None,
    hosts: int | None = None,
    scheduler: str | None = None,
    insecure_cluster: bool = False,
) -> RunResult:
    """Run `pipeline` to its end and return the result.

    Dead letters go to `dead_letters` (default ``<pipeline>.dead.jsonl``); the run fails when there are more than
    `max_dead_letters`. With `append`, outputs of an earlier run are added to instead of replaced.

    With several `processes`, each step that keeps a processor busy (sync, one call at a time) runs as an instance in
    each of so many processes beside this one, unless it states a `parallelism`; each has its own copy of the operator.
    Sources, sinks, reductions, async steps and steps with `concurrency` stay here. Only `order_by` keeps an order then.
    Who gets the next records, the `scheduler` says (default: ``adaptive``).

    With ``engine="ray"``, the same with `hosts` processes (default: one for each processor) on the nodes of the cluster
    at `address` (default: a private one on this machine, for this run), placed by `scheduler`. There, async steps and
    steps with `concurrency` that state a `parallelism` leave this process too: so many instances, each with so many
    calls in flight. A cluster that asks for no token is refused without `insecure_cluster`.

    With a `job_dir`, everything that is needed to go on is kept there: the same call continues a run that was killed,
    stopped or failed, without losing a record, writing one twice, or repeating a finished call of a durable step. With
    a folder `reuse` beside it, all jobs that name that folder share results of durable steps: a call that asks what
    another asked before is not made.

    Raises `PipelineError` if the pipeline cannot run, and the `SageError` that ended the run if it failed. On the main
    thread, Ctrl-C (or SIGTERM) stops it cleanly: sources stop, what is in flight is finished, then KeyboardInterrupt is
    raised; the second time it ends at once. Results of a run that is stopped or fails are put aside, not in place.
    """
    path = Path(dead_letters) if dead_letters is not None else None
    options = RunOptions(
        path, max_dead_letters, append, processes, engine=engine, address=address, hosts=hosts, scheduler=scheduler,
        insecure_cluster=insecure_cluster, job_dir=Path(job_dir) if job_dir is not None else None,
        reuse=Path(reuse) if reuse is not None else None,
    )  # fmt: skip
    check_engine(engine)
    runner = RUNNER.get()
    if runner is not None:
        return runner(pipeline, options)
    job = job_of(pipeline, options)
    with interrupts(job):  # before it starts, or a Ctrl-C in between would leave it half done
        result = job.start().wait()
    if result.status is Status.CANCELLED:
        raise KeyboardInterrupt(f"stopped: {result.account}")
    if result.error is not None:
        raise result.error
    return result


def start(pipeline: Pipeline, options: RunOptions | None = None) -> Job:
    """Start `pipeline` in the background. Raises as `run` does if it cannot run."""
    if RUNNER.get() is not None:
        raise UsageError(
            "E112", "sage.start in a file that `sage run` executes", try_="sage.run, or run the file with python"
        )
    return job_of(pipeline, options or RunOptions()).start()


def job_of(pipeline: Pipeline, options: RunOptions) -> Job:
    """A run of `pipeline` that was not started. Raises `PipelineError` if the pipeline cannot run."""
    if type(options.processes) is not int or not 1 <= options.processes <= MOST_PROCESSES:
        raise UsageError(
            "E111", "the number of processes is not possible", got=options.processes, expected=f"1 to {MOST_PROCESSES}"
        )
    check_engine(options.engine)
    _check_reuse(options)
    if options.scheduler is not None:
        scheduler_named(options.scheduler)
    if options.engine == "ray":
        return _job_on_ray(pipeline, options)
    if options.processes == 1:
        return Job(compile_pipeline(pipeline), options)
    from sage.runtime.processes import ProcessEngine  # what starts processes takes 30 ms to import

    engine = ProcessEngine(options.processes, options.scheduler)
    return Job(compile_pipeline(pipeline, options.processes), options, engine)


def _job_on_ray(pipeline: Pipeline, options: RunOptions) -> Job:
    if options.processes != 1:
        raise UsageError("E113", "processes are of this machine", got=options.processes, try_="hosts, for engine 'ray'")
    check_pipeline(pipeline)  # a mistake is told before a cluster is started
    from sage.runtime.ray import RayEngine  # ray is optional

    engine = RayEngine(options.address, options.hosts, options.scheduler, insecure=options.insecure_cluster)
    try:
        return Job(compile_pipeline(pipeline, engine.hosts, on_cluster=True), options, engine)
    except BaseException:
        engine.close()
        raise


def check_engine(engine: str) -> None:
    """Raise `UsageError` for an engine that there is not."""
    if engine not in ENGINES:
        raise UsageError("E110", "unknown engine", got=engine, expected=" or ".join(ENGINES))


def _check_reuse(options: RunOptions) -> None:
    if options.reuse is not None and options.job_dir is None:
        raise UsageError(
            "E117", "this run cannot reuse results of other jobs", at=str(options.reuse), got="no job directory",
            try_="--job-dir DIR --reuse-results FOLDER",
        )  # fmt: skip


@contextmanager
def interrupts(job: Job) -> Iterator[None]:
    """While inside, the first Ctrl-C or SIGTERM stops `job` and the second aborts it (on the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = 0

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            job.stop()
        else:
            job.abort()

    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
