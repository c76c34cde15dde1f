"""Which record killed its host: found out by a run that begins again, and kept away from the hosts then. Pure.

Nobody watches until a host is lost. Then hosts take the records that were open one by one, and say which, until as many
came as can have been open. A record that was the only one under way in its host when that died, twice, is the culprit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEEN_DEATHS = 2
"""Of a host, while it worked on this record alone: with the one before anybody watched, the third."""


class Try(NamedTuple):
    """What a worker of a host is at."""

    step: str
    """The first of its task."""
    rid: str


@dataclass(frozen=True, slots=True)
class Watch:
    """What hosts are told by a run that begins again."""

    condemned: frozenset[Try]
    """These are not worked on any more."""


class Suspects:
    """Of one run. Used by one thread, that of the job."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[int, str], Try] = {}
        self._deaths: Counter[Try] = Counter()
        self._is_watching = False

    @property
    def watch(self) -> Watch | None:
        """For the hosts of the next attempt."""
        if not self._is_watching:
            return None
        return Watch(frozenset(one for one, deaths in self._deaths.items() if deaths >= SEEN_DEATHS))

    def note(self, host: int, worker: str, attempt: Try | None) -> None:
        """A worker begins with a record, or is done with all that it had."""
        if attempt is None:
            self._under_way.pop((host, worker), None)
        else:
            self._under_way[host, worker] = attempt

    def died(self, hosts: Sequence[int]) -> bool:
        """The run has lost these and begins again; whether it is known now of a record that it killed one."""
        self._is_watching = True
        found = False
        for host in hosts:
            tries = [one for (where, _), one in self._under_way.items() if where == host]
            if len(tries) == 1:
                self._deaths[tries[0]] += 1
                found |= self._deaths[tries[0]] == SEEN_DEATHS
        self._under_way.clear()
        return found
