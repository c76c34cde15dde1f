"""One thread at a time for each thing, so that what takes long holds up nobody who is about something else."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Exclusive:
    """What has been taken, by threads of this process. One for the life of the process; a forked child begins anew."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[Hashable] = set()

    @contextmanager
    def take(self, key: Hashable) -> Iterator[None]:
        """Wait until no other thread has `key`, and have it. Must not be taken twice by one thread."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._taken)
            self._taken.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._taken.discard(key)
                self._changed.notify_all()
