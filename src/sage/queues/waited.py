"""How long threads wait, those that still do included."""

from __future__ import annotations

from threading import get_ident
from time import monotonic


class Waited:
    """The time that threads spent waiting for one thing. Each wait is a `with`, or from `begin` to `end`."""

    def __init__(self) -> None:
        self._over_s = 0.0
        self._since: dict[int, float] = {}

    def begin(self) -> None:
        """This thread waits, until its next call of `end`."""
        self._since[get_ident()] = monotonic()

    def end(self) -> None:
        """It does not any more."""
        self._over_s += monotonic() - self._since.pop(get_ident())

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def now(self) -> int:
        """How many threads wait."""
        return len(self._since)

    @property
    def seconds(self) -> float:
        """Of all threads together, up to this moment."""
        now = monotonic()
        return self._over_s + sum(now - since for since in list(self._since.values()))
