"""The contract of a scheduler, and the schedulers by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from sage.errors import SchedulingError
from sage.scheduling.view import Cluster, Replica, Task, Work

Choice = TypeVar("Choice")
_KINDS: dict[str, type[Scheduler]] = {}
Kind = TypeVar("Kind", bound="type[Scheduler]")
DEFAULT = "adaptive"


@dataclass(frozen=True, slots=True)
class Decision(Generic[Choice]):
    """What was decided, and why: the score of each candidate, in the order of the view; the lowest wins, inf cannot."""

    choice: Choice
    scores: Sequence[float]
    reason: str


class Scheduler(ABC):
    """Three pure functions. The same view gives the same decision; what a scheduler was made with never changes."""

    name: ClassVar[str]
    rebinds: ClassVar[bool] = True
    """Work that waits at a replica is offered to others anew when one of them has nothing to do."""

    @abstractmethod
    def place(self, task: Task, cluster: Cluster) -> Decision[str]:
        """The node for `task`. Raises `SchedulingError` E245 if no node can carry it."""

    @abstractmethod
    def choose(self, work: Work, replicas: Sequence[Replica], waiting_s: float) -> Decision[int | None]:
        """Which of `replicas` (at least one) gets `work` now; None: it had better wait where it is.

        `waiting_s` is all that waits, `work` included, in reference seconds. It is None only while every replica that
        could take the work at once is passed over for one that is busy: whenever work ends, the question is put again.
        """

    @abstractmethod
    def order(self, waiting: Sequence[Work]) -> Decision[int]:
        """Which of `waiting` (at least one, by arrival; the first of each band and job is enough) goes first."""


def register(kind: Kind) -> Kind:
    """Make a scheduler known by its name. Raises E246 if the name is taken."""
    if kind.name in _KINDS:
        raise SchedulingError("E246", "there is a scheduler of this name", got=kind.name)
    _KINDS[kind.name] = kind
    return kind


def scheduler_named(name: str) -> Scheduler:
    """A scheduler with its own settings. Raises E246 if there is none of this name."""
    kind = _KINDS.get(name)
    if kind is None:
        raise SchedulingError("E246", "there is no such scheduler", got=name, expected=", ".join(names()))
    return kind()


def names() -> list[str]:
    """Of all schedulers."""
    return sorted(_KINDS)


def by_arrival(waiting: Sequence[Work]) -> Decision[int]:
    """Who came first."""
    return Decision(0, range(len(waiting)), "came first")


def lowest(scores: Sequence[float]) -> int:
    """The index of the lowest score; the first of equals."""
    return min(range(len(scores)), key=scores.__getitem__)
