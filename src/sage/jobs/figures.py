"""The figures of all jobs in Prometheus' text: one series a job, and one for each of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sage.jobs.job import Job
from sage.jobs.states import ACTIVE
from sage.metrics import Registry, prometheus_text

ACCOUNT = ("read", "written", "dead_lettered", "filtered", "unfinished")
STEP = ("received", "emitted", "dead_lettered", "retries", "in_flight", "waiting", "parked")


def prometheus_of(jobs: Iterable[tuple[Job, Mapping[str, Any] | None, int | None]]) -> str:
    """Each job with its figures, as its run wrote them, and its share of the records in flight.

    Labels tell the job, its name and its user apart; a job that has ended keeps its last figures until it is deleted.
    """
    registry = Registry()
    for job, figures, share in jobs:
        labels = {"job": job.id, "job_name": job.spec.name, "user": job.spec.user}
        state = registry.gauge("sage_job_state", "1 in the state that it is in", **labels, state=str(job.state))
        state.set(1.0)
        if share is not None and job.state in ACTIVE:
            registry.gauge("sage_job_in_flight_limit", "Records that it may have in flight", **labels).set(share)
        if figures is not None:
            _job(registry, figures, labels)
    return prometheus_text(registry.collect())


def _job(registry: Registry, figures: Mapping[str, Any], labels: dict[str, str]) -> None:
    for term in ACCOUNT:
        gauge = registry.gauge(f"sage_job_records_{term}", f"Records {term.replace('_', ' ')} in this run", **labels)
        gauge.set(figures["account"][term])
    registry.gauge("sage_job_elapsed_seconds", "Since this run began", **labels).set(figures["elapsed_s"])
    for quantile in ("p50", "p99"):
        seconds = figures[f"{quantile}_s"]
        if seconds is not None:
            about = "Of a record, from its read to its write"
            registry.gauge(f"sage_job_latency_{quantile}_seconds", about, **labels).set(seconds)
    for step in figures["steps"]:
        _step(registry, step, {**labels, "step": step["name"]})


def _step(registry: Registry, step: Mapping[str, Any], labels: dict[str, str]) -> None:
    for name in STEP:
        registry.gauge(f"sage_job_step_{name}", f"Records {name.replace('_', ' ')}", **labels).set(step[name])
    registry.gauge("sage_job_step_slots", "Calls that it can run at once", **labels).set(step["slots"])
    registry.gauge("sage_job_step_busy_seconds", "Of all its slots", **labels).set(step["busy_s"])
