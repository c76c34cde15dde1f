"""Jobs as admission sees them: what each needs, how long it has waited, how long its runs take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sage.jobs.admission import Needs, Running, Waiting
from sage.jobs.job import Job, JobSpec
from sage.jobs.states import State

Kind = tuple[str, tuple[str, ...]]
"""What makes two jobs alike: the content of the file and its arguments."""
_WELL = frozenset({State.SUCCEEDED, State.SUCCEEDED_WITH_DEAD_LETTERS})


def needs_of(spec: JobSpec) -> Needs:
    """What it says that it takes."""
    return Needs(spec.processors, spec.memory_bytes, spec.places)


def waiting_of(job: Job, now: float, delay_s: float, usual_s: Mapping[Kind, float]) -> Waiting:
    """A job that waits, at the wall clock's `now`."""
    waited_s = max(0.0, now - _since(job))
    spec = job.spec
    return Waiting(
        job.id, spec.priority, waited_s, delay_s, spec.user, needs_of(spec), usual_s.get(_kind(spec))
    )  # fmt: skip


def running_of(job: Job, now: float, usual_s: Mapping[Kind, float]) -> Running:
    """A job that has a place. One that takes longer than others of its kind did: nobody knows how long."""
    usual = usual_s.get(_kind(job.spec))
    left_s = None if usual is None else usual - (now - _since(job, State.STARTING))
    return Running(job.id, job.spec.user, needs_of(job.spec), left_s if left_s is not None and left_s > 0 else None)


def usual_run_s(jobs: Iterable[Job]) -> dict[Kind, float]:
    """How long the newest run of each kind took that ended well."""
    found = {}
    for job in jobs:
        if job.state in _WELL:
            found[_kind(job.spec)] = max(0.0, job.changes[-1].at - _since(job, State.STARTING))
    return found


def _since(job: Job, state: State | None = None) -> float:
    """When it came into `state`; without one, into that in which it is."""
    changes = [change.at for change in job.changes if state is None or change.state is state]
    return changes[-1] if changes else job.submitted_at


def _kind(spec: JobSpec) -> Kind:
    return spec.sha256, spec.arguments
