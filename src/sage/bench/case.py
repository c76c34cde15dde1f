"""What is measured: cases of experiments, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Admission = Literal["none", "limited", "jobs"]
AHEAD = 2
"""Records on their way for each slot: one in it, and one that it need not wait for."""


@dataclass(frozen=True, slots=True)
class Load:
    """One job of a case."""

    name: str
    pipeline: str
    tasks: int
    start_s: float = 0.0
    in_flight: int | None = None
    """Records on their way at once; None: `AHEAD` for each slot of the cluster."""
    rate_per_s: float | None = None
    """Poisson arrivals instead: latency counts from the intended start."""


@dataclass(frozen=True, slots=True)
class Case:
    """One point of an experiment."""

    name: str
    x: float
    """Where it stands on the axis of the experiment's plots."""
    series: str = ""
    """Which line of the plots it belongs to."""
    nodes: int = 1
    """0: it runs beside the cluster, on this machine."""
    slots: int = 8
    cores: int | None = None
    """Records of a node that compute at once; None: as many as there are slots, computing is sleeping."""
    scheduler: str = "adaptive"
    loads: tuple[Load, ...] = ()
    endpoints: int = 1
    admission: Admission = "limited"
    """Before the endpoints: nothing, SAGE's pool, or SAGE's pool and a limit of each job's records in flight."""
    room: int | None = None
    """With ``"jobs"``: their records in flight in all, divided by weight, before endpoints without a limit; None: as
    many as the endpoints are found to take."""
    adaptive: bool = False
    """Records in flight are found by feedback."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of experiments that are not about clusters."""

    def in_flight(self, load: Load) -> int:
        """Records of `load` on their way at once, where no rate says when they come."""
        return load.in_flight or AHEAD * self.nodes * self.slots

    @property
    def tasks(self) -> int:
        return sum(load.tasks for load in self.loads)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)
