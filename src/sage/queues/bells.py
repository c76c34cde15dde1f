"""Threads that wait, each on a lock of its own. Who makes the wait of some worth an end rings for so many."""

from __future__ import annotations

import threading
from collections import deque
from typing import TypeAlias

Bells: TypeAlias = "deque[threading.Lock]"


def hang_up(bells: Bells) -> threading.Lock:
    """A bell for the calling thread: to acquire it is to wait."""
    bell = threading.Lock()
    bell.acquire()
    bells.append(bell)
    return bell


def ring(bells: Bells, count: int = 1) -> None:
    """Wake threads that wait, at most `count`."""
    try:
        for _ in range(count):
            bells.popleft().release()
    except IndexError:  # nobody waits any more
        return


def take_down(bells: Bells, bell: threading.Lock) -> None:
    """Wait no longer. A call that came for this thread meanwhile goes to the next."""
    try:
        bells.remove(bell)
    except ValueError:
        ring(bells)
