"""What goes into a run and what comes out of it, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sage.clock import SYSTEM_CLOCK, Clock
from sage.errors import SageError
from sage.flow.admission import EndpointFigures
from sage.runtime.account import Account
from sage.runtime.durable import StepBill
from sage.runtime.load import HostSnapshot, RouteSnapshot
from sage.runtime.placement import Placed
from sage.runtime.stats import StepSnapshot


class Status(StrEnum):
    """How a run ended, or that it has not."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    SUCCEEDED_WITH_DEAD_LETTERS = "SUCCEEDED_WITH_DEAD_LETTERS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a pipeline."""

    dead_letters: Path | None = None
    """Where dead letters go; default ``<pipeline>.dead.jsonl`` in the current directory."""
    max_dead_letters: int | None = None
    """The job fails when there are more; default: no limit."""
    append: bool = False
    """Add to the outputs of an earlier run instead of replacing them."""
    processes: int = 1
    """With more than one, steps that keep a processor busy run in so many processes beside this one."""
    engine: str = "local"
    """``"local"``: this machine. ``"ray"``: a cluster, where these four say more."""
    address: str | None = None
    """Which cluster; default: a private one, which ends with the run."""
    hosts: int | None = None
    """Processes on the nodes of the cluster in all; default: one for each processor."""
    scheduler: str | None = None
    """Who places steps on nodes, and gives work to hosts; default: ``adaptive``."""
    insecure_cluster: bool = False
    """Join a cluster that asks for no token."""
    job_dir: Path | None = None
    """Where the run keeps what another one needs to go on, if it does not come to its end."""
    discard_steps: frozenset[str] = frozenset()
    """Steps of earlier runs of the job that are gone, and whose state may be forgotten."""
    reuse: Path | None = None
    """A folder of results that jobs share: a durable step makes no call that any of them has paid for."""
    max_in_flight: int | None = None
    """Records read and not finished at most; default: 10,000. `Job.limit_in_flight` changes it meanwhile."""
    restarts: int | None = None
    """How often a run of several hosts begins again after the loss of one, within `restart_window_s`; then it fails.
    Default: the setting ``restarts``, which is 3."""
    restart_window_s: float = 60.0
    clock: Clock = field(default=SYSTEM_CLOCK)


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A run at one moment."""

    pipeline: str
    status: Status
    stopping: bool
    elapsed_s: float
    account: Account
    steps: tuple[StepSnapshot, ...]
    p50_s: float | None
    """Median seconds of a record from its read to its write."""
    p99_s: float | None
    restarts: tuple[str, ...] = ()
    """Why the run began again, each time: hosts that were lost. The account begins there."""
    hosts: tuple[HostSnapshot, ...] = ()
    """What each host does, by its heartbeats."""
    placed: tuple[Placed, ...] = ()
    """Why the instances that are not in this process are where they are."""
    routes: tuple[RouteSnapshot, ...] = ()
    """Who gets the records of each task of several hosts, and why."""
    waits_for: SageError | None = None
    """Why the job directory takes nothing at the moment."""

    @property
    def bottleneck(self) -> str | None:
        """The step whose slots were busiest, if any was busy at all."""
        busiest = max(self.steps, key=lambda step: step.utilisation(self.elapsed_s), default=None)
        return busiest.name if busiest is not None and busiest.busy_s > 0 else None

    @property
    def endpoints(self) -> tuple[EndpointFigures, ...]:
        """Those that its steps ask, each once. Other jobs of the process may ask them too, and count."""
        return tuple({each.name: each for step in self.steps for each in step.endpoints}.values())

    @property
    def stalled(self) -> str | None:
        """Why nothing moves: there is no room, or every record in flight of some step waits for an endpoint."""
        if self.waits_for is not None:
            return str(self.waits_for)
        for step in self.steps:
            if step.parked and step.parked >= min(step.in_flight, step.slots):
                return f"{step.name}: {step.parked_reason}"
        return None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    pipeline: str
    run_id: str
    status: Status
    account: Account
    elapsed_s: float
    steps: tuple[StepSnapshot, ...]
    p50_s: float | None
    p99_s: float | None
    dead_letters: Path | None
    """The dead-letter file, if there are any."""
    error: SageError | None
    """Why the run failed."""
    put_aside: tuple[str, ...]
    """Where unfinished outputs were put aside."""
    _collected: dict[str, list[Any]]
    earlier: int = 0
    """Source records that were finished before the account begins: by earlier runs of the job, or before the run lost a
    host and began again."""
    restarts: tuple[str, ...] = ()
    """Why it began again, each time."""
    bill: tuple[StepBill, ...] = ()
    """With a job directory: what the calls of durable steps came to in this run."""
    notices: tuple[str, ...] = ()
    """What to know of a run with a job directory, each with a code: W310, W311, W312."""
    placed: tuple[Placed, ...] = ()
    """As in a snapshot."""
    routes: tuple[RouteSnapshot, ...] = ()
    """As in a snapshot, at the end."""
    goes_on: bool = False
    """The run has a job directory, from which another one goes on if this did not come to its end."""

    def __repr__(self) -> str:
        """What a notebook shows; all figures of all steps would fill its page."""
        where = f", dead letters in {self.dead_letters}" if self.dead_letters is not None else ""
        return f"<RunResult of {self.pipeline!r}: {self.status}, {self.account}{where}>"

    def collected(self, name: str = "collect") -> list[Any]:
        """The records that arrived at ``stream.collect(name)``."""
        if name not in self._collected:
            names = ", ".join(map(repr, self._collected)) or "none"
            raise KeyError(f"no collect({name!r}) in this pipeline, but {names}")
        return self._collected[name]
