"""Which record killed its host: found out by a run that begins again, and kept away from the hosts then. Pure.

Nobody watches until a host is lost. Then hosts take the records that were open one by one, and say which, until as many
came as can have been open. Where calls overlap, those that were under way when their host died are made alone from then
on. A record that was under way in two deaths, and the only one in the last of them, is the culprit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEEN_DEATHS = 2
"""Of hosts that worked on this record, the last on no other: with the one before anybody watched, the third."""


class Try(NamedTuple):
    """What a worker of a host is at."""

    step: str
    """The first of its task."""
    rid: str


Say = Callable[[str, Try | None], None]
"""The worker, and what it is at. Returns when the driver will know, whatever becomes of this process."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What hosts are told by a run that begins again."""

    condemned: frozenset[Try]
    """These are not worked on any more."""
    suspected: frozenset[Try]
    """These were under way when a host died."""


class Suspects:
    """Of one run. Used by one thread, that of the job."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[int, str], Try] = {}
        self._deaths: Counter[Try] = Counter()
        self._condemned: set[Try] = set()
        self._is_watching = False

    @property
    def watch(self) -> Watch | None:
        """For the hosts of the next attempt."""
        if not self._is_watching:
            return None
        return Watch(frozenset(self._condemned), frozenset(self._deaths.keys() - self._condemned))

    def note(self, host: int, worker: str, attempt: Try | None) -> None:
        """A worker begins with a record, or is done with all that it had."""
        if attempt is None:
            self._under_way.pop((host, worker), None)
        else:
            self._under_way[host, worker] = attempt

    def died(self, hosts: Sequence[int]) -> bool:
        """The run has lost these and begins again; whether it is known now of a record that it killed one."""
        self._is_watching = True
        known = len(self._condemned)
        for host in hosts:
            tries = [one for (where, _), one in self._under_way.items() if where == host]
            self._deaths.update(tries)
            if len(tries) == 1 and self._deaths[tries[0]] >= SEEN_DEATHS:
                self._condemned.add(tries[0])
        self._under_way.clear()
        return len(self._condemned) > known
