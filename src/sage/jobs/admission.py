"""Which of the jobs that wait may start, what each waits for, and about how long. Pure: no clock, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sage.scheduling.priority import AGEING_S, urgency
from sage.scheduling.sharing import divided
from sage.scheduling.view import Work

PASSED_S = 30.0
"""A job that waits for room may be passed by smaller ones for so long; then nobody starts before it."""
MOST_NAMED = 5
"""Of those that wait on, in the reason of one that starts."""
MOST_FORECAST = 50
"""Jobs of which it is said when they would start: nobody asks about the thousandth."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job says that it takes. What it does not say counts nothing."""

    processors: float = 0.0
    memory_bytes: int = 0
    places: int = 0
    """Calls in flight at endpoints."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is for all jobs together."""

    jobs: int
    jobs_per_user: int | None = None
    processors: float | None = None
    """None, of this and the next two: it is not counted."""
    memory_bytes: int | None = None
    places: int | None = None
    in_flight: int | None = None
    """Records, shared by those that run."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits."""

    id: str
    band: int
    waited_s: float
    """Since it was submitted or resumed."""
    delay_s: float = 0.0
    """What is left of its start delay."""
    user: str = ""
    needs: Needs = Needs()
    usual_s: float | None = None
    """How long runs of it take; None where none has ended."""


@dataclass(frozen=True, slots=True)
class Running:
    """A job that has a place."""

    id: str
    user: str = ""
    needs: Needs = Needs()
    left_s: float | None = None
    """About so long it will go on; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in the queue."""

    position: int
    """From 1 on, among the jobs that wait."""
    reason: str
    score: float
    """Its urgency: the lowest goes first."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What `admit` decided."""

    start: Mapping[str, float]
    """Those that start now, in this order, each with its urgency."""
    queue: Mapping[str, Place]
    """The others, in the order in which they will be considered."""

    def why(self, job: str) -> str:
        """Why `job` starts: its score, and those of the most urgent that wait on."""
        behind = [f"{other} {place.score:.1f}" for other, place in self.queue.items()][:MOST_NAMED]
        behind += [f"{len(self.queue) - MOST_NAMED} more"] if len(self.queue) > MOST_NAMED else []
        return f"there is room, urgency {self.start[job]:.1f}" + (f", before {', '.join(behind)}" if behind else "")


class Taken:
    """What the jobs that have a place take together."""

    def __init__(self, running: Iterable[Running] = ()) -> None:
        self._jobs = Counter[str]()
        self._processors = 0.0
        self._memory_bytes = self._places = self._count = 0
        for job in running:
            self.add(job.user, job.needs)

    def add(self, user: str, needs: Needs) -> None:
        """One more job."""
        self._count += 1
        self._jobs[user] += 1
        self._processors += needs.processors
        self._memory_bytes += needs.memory_bytes
        self._places += needs.places

    def lacks(self, needs: Needs, capacity: Capacity) -> str | None:
        """What there is too little of for one more job; None if nothing is."""
        if self._count >= capacity.jobs:
            return f"all {capacity.jobs} places are taken"
        for what, need, taken, most in (
            ("processors", needs.processors, self._processors, capacity.processors),
            ("bytes of memory", needs.memory_bytes, self._memory_bytes, capacity.memory_bytes),
            ("places at endpoints", needs.places, self._places, capacity.places),
        ):
            if most is not None and need and taken + need > most:
                return f"needs {need:,g} {what}, and {most - taken:,g} of {most:,g} are free"
        return None

    def too_many(self, user: str, capacity: Capacity) -> str | None:
        """Whether `user` has all that one may have."""
        most = capacity.jobs_per_user
        if most is None or self._jobs[user] < most:
            return None
        return f"{user} has {most} jobs already, which is all that one may have"


def admit(waiting: Sequence[Waiting], running: Sequence[Running], capacity: Capacity) -> Admission:
    """Start the most urgent jobs for which there is room.

    The order is that of `sage.scheduling.Priority`: by priority and then by arrival, where a job of one band passes a
    newer one of the next higher band after 30 s, so that none waits for ever. A job for which there is no room is
    passed by those for which there is, until it has waited for `PASSED_S`: then room is kept for it. One that waits
    for another job of its own user keeps nobody up, nor does one that needs more than there is.
    """
    ready = sorted((job for job in waiting if job.delay_s <= 0), key=_urgency)
    later = sorted((job for job in waiting if job.delay_s > 0), key=lambda job: job.delay_s)
    taken = Taken(running)
    start: dict[str, float] = {}
    queue: dict[str, Place] = {}
    before: str | None = None
    for job in ready:
        its_user = taken.too_many(job.user, capacity)
        reason = its_user or taken.lacks(job.needs, capacity) or before
        if reason is None:
            start[job.id] = _urgency(job)
            taken.add(job.user, job.needs)
            continue
        queue[job.id] = Place(len(queue) + 1, reason, _urgency(job))
        if job.waited_s < PASSED_S or before is not None or its_user is not None:
            continue
        if Taken().lacks(job.needs, capacity) is None:  # else it can never fit: the manager was started again with less
            before = f"room is kept for {job.id}, which has waited for {job.waited_s:.0f} s"
    for job in later:
        reason = f"starts in {job.delay_s:.1f} s at the earliest"
        queue[job.id] = Place(len(queue) + 1, reason, _urgency(job))
    return Admission(start, queue)


def forecast(waiting: Sequence[Waiting], running: Sequence[Running], capacity: Capacity) -> dict[str, float]:
    """About how many seconds each job will wait still, as far as that follows from how long earlier runs took.

    Everything behind a job of unknown length that would have to end first is unknown, and left out.
    """
    left = {job.id: job for job in waiting}
    there = list(running)
    found: dict[str, float] = {}
    now_s = 0.0
    while left and len(found) < MOST_FORECAST:
        at_now = [_at(job, now_s) for job in left.values()]
        for job in admit(at_now, there, capacity).start:
            found[job] = now_s
            usual_s = left[job].usual_s
            ends_s = None if usual_s is None else now_s + usual_s
            there.append(Running(job, left[job].user, left[job].needs, ends_s))
            del left[job]
        moments = [job.left_s for job in there if job.left_s is not None]
        moments += [job.delay_s for job in left.values() if job.delay_s > now_s]
        if not moments:
            break
        now_s = max(now_s, min(moments))
        there = [job for job in there if job.left_s is None or job.left_s > now_s]
    return found


def shares(weights: Mapping[str, float], most: Mapping[str, int], capacity: Capacity) -> dict[str, int | None]:
    """The records that each running job may have in flight: what there is for all, `divided`, or the `most` of its own.
    None: no limit."""
    if capacity.in_flight is None:
        return {job: most.get(job) for job in weights}
    return {**divided(capacity.in_flight, weights, most)}


def _at(job: Waiting, now_s: float) -> Waiting:
    return replace(job, waited_s=job.waited_s + now_s, delay_s=max(0.0, job.delay_s - now_s))


def _urgency(job: Waiting) -> float:
    return urgency(Work(band=job.band, waited_s=job.waited_s), AGEING_S)
