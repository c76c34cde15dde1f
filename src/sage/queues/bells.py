"""Threads that wait, each on a lock of its own. Who makes the wait of some worth an end rings for so many."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TypeAlias

Bells: TypeAlias = "deque[Lock]"


def hang_up(bells: Bells) -> Lock:
    """A bell for the calling thread: to acquire it is to wait."""
    bell = Lock()
    bell.acquire()
    bells.append(bell)
    return bell


def ring_one(bells: Bells) -> None:
    """Wake a thread, if one waits."""
    try:
        bells.popleft().release()
    except IndexError:
        return


def ring(bells: Bells, count: int) -> None:
    """Wake threads that wait, at most `count`."""
    try:
        for _ in range(count):
            bells.popleft().release()
    except IndexError:  # nobody waits any more
        return


def take_down(bells: Bells, bell: Lock) -> None:
    """Wait no longer. A call that came for this thread meanwhile goes to the next."""
    try:
        bells.remove(bell)
    except ValueError:
        ring_one(bells)
