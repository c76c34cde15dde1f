"""The states of a job, and which may follow which. Pure.

::

    PENDING ──> STARTING ──> RUNNING ──> SUCCEEDED, SUCCEEDED_WITH_DEAD_LETTERS, FAILED
       ^  |         |           |
       |  |         └───────────┴──> STOPPING ──> CANCELLED (or an end of its own, if that came first)
       |  └──> CANCELLED
       └────── CANCELLED, FAILED, LOST          by `resume`

From STARTING on a process runs, so every end is possible: a small job is over before anybody saw it run. LOST means
that its processes are gone and left no word about how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sage.errors import UsageError


class State(StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    SUCCEEDED_WITH_DEAD_LETTERS = "SUCCEEDED_WITH_DEAD_LETTERS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class Command(StrEnum):
    """What a user asks of a job."""

    STOP = "stop"
    RESUME = "resume"
    DELETE = "delete"


ENDS = frozenset(
    {State.SUCCEEDED, State.SUCCEEDED_WITH_DEAD_LETTERS, State.FAILED, State.CANCELLED, State.LOST}
)  # fmt: skip
ACTIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
"""Those with a process, which take a place among the jobs that run."""

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.STARTING, State.CANCELLED}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING}) | ENDS,
    State.RUNNING: frozenset({State.STOPPING}) | ENDS,
    State.STOPPING: ENDS,
    State.SUCCEEDED: frozenset(),
    State.SUCCEEDED_WITH_DEAD_LETTERS: frozenset(),
    State.FAILED: frozenset({State.PENDING}),
    State.CANCELLED: frozenset({State.PENDING}),
    State.LOST: frozenset({State.PENDING}),
}

REFUSALS: Mapping[Command, Mapping[State, str]] = {
    Command.STOP: {},
    Command.RESUME: dict.fromkeys(ACTIVE, "it runs")
    | {State.PENDING: "it waits for its turn already"}
    | dict.fromkeys((State.SUCCEEDED, State.SUCCEEDED_WITH_DEAD_LETTERS), "it has finished"),
    Command.DELETE: dict.fromkeys(ACTIVE, "it runs"),
}
"""Why a command is refused, in the states in which it is. To stop what has ended already changes nothing."""

WAYS_OUT: Mapping[Command, str] = {
    Command.STOP: "sage job show {job}",
    Command.RESUME: "sage job show {job}, or sage job submit to run the file again",
    Command.DELETE: "sage job stop {job}",
}


def check_transition(job: str, before: State, after: State) -> None:
    """Raise `UsageError` E144 if `after` may not follow `before`."""
    if after not in TRANSITIONS[before]:
        possible = ", ".join(sorted(TRANSITIONS[before])) or "nothing: this is an end"
        raise UsageError("E144", f"the job cannot become {after}", at=f"job {job}", got=str(before), expected=possible)


def check_command(job: str, command: Command, state: State) -> None:
    """Raise `UsageError` E144, with the reason and what to do, if `command` is refused in `state`."""
    reason = REFUSALS[command].get(state)
    if reason is not None:
        try_ = WAYS_OUT[command].format(job=job)
        raise UsageError("E144", f"the job cannot {command}: {reason}", at=f"job {job}", got=str(state), try_=try_)
