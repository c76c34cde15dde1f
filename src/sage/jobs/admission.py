"""Which of the jobs that wait may start. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage.scheduling.priority import AGEING_S, urgency
from sage.scheduling.view import Work


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits."""

    id: str
    band: int
    waited_s: float
    """Since it was submitted or resumed."""
    delay_s: float = 0.0
    """What is left of its start delay."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in the queue."""

    position: int
    """From 1 on, among the jobs that wait."""
    reason: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What `admit` decided."""

    start: tuple[str, ...]
    """The ids of those that start now, in this order."""
    queue: Mapping[str, Place]
    """The others, in the order in which they will be considered."""


def admit(waiting: Sequence[Waiting], running: int, limit: int) -> Admission:
    """Fill the free places of `limit` with the most urgent jobs that need not wait for their start delay.

    The order is that of `sage.scheduling.Priority`: by priority and then by arrival, where a job of one band passes a
    newer one of the next higher band after 30 s, so that none waits for ever.
    """
    ready = sorted((job for job in waiting if job.delay_s <= 0), key=_urgency)
    later = sorted((job for job in waiting if job.delay_s > 0), key=lambda job: job.delay_s)
    free = max(0, limit - running)
    full = f"all {limit} places are taken"
    reasons = [(job.id, full) for job in ready[free:]]
    reasons += [(job.id, f"starts in {job.delay_s:.1f} s at the earliest") for job in later]
    places = {job: Place(position, reason) for position, (job, reason) in enumerate(reasons, 1)}
    return Admission(tuple(job.id for job in ready[:free]), places)


def _urgency(job: Waiting) -> float:
    return urgency(Work(band=job.band, waited_s=job.waited_s), AGEING_S)
