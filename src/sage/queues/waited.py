"""How long threads wait, those that still do included."""

from __future__ import annotations

import threading
import time


class Waited:
    """The time that threads spent waiting for one thing. Each wait is a `with`."""

    def __init__(self) -> None:
        self._over_s = 0.0
        self._since: dict[int, float] = {}

    def __enter__(self) -> None:
        self._since[threading.get_ident()] = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._over_s += time.monotonic() - self._since.pop(threading.get_ident())

    @property
    def now(self) -> int:
        """How many threads wait."""
        return len(self._since)

    @property
    def seconds(self) -> float:
        """Of all threads together, up to this moment."""
        now = time.monotonic()
        return self._over_s + sum(now - since for since in list(self._since.values()))
