"""Who runs a case, the one seam between experiments and clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sage.bench.case import Case
from sage.simulation import Rows


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a case brought about."""

    rows: Rows
    """One for each record; times in seconds from the start of the run."""
    figures: dict[str, float] = field(default_factory=dict)
    """What is known beside them."""


class Executor(Protocol):
    """A kind of cluster."""

    where: str
    """A few words, like 'processes of this machine'."""

    @property
    def label(self) -> str:
        """Said in every report of what it ran: where, and what stood in for computing and for the endpoint."""

    def check(self, case: Case) -> None:
        """Raise `UsageError` if it cannot run `case`, before anything was started."""

    def run(self, case: Case, seed: int) -> Run:
        """Run it. Raises `InternalError` E902 if a record was lost."""

    def close(self) -> None:
        """End what it has started. Closing twice is harmless."""
