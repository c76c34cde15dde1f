"""How often a run may begin again after it lost a host, and what it lost. Pure."""

from __future__ import annotations

from sage.errors import HostError, shorten


class Restarts:
    """Of one run: at most `most` within `window_s`."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._at_s: list[float] = []
        self.losses: list[str] = []
        """Why it began again, each time."""

    def allow(self, loss: HostError, now_s: float) -> bool:
        """Whether the run may begin again now, after this loss."""
        self._at_s = [at_s for at_s in self._at_s if now_s - at_s < self._window_s]
        if len(self._at_s) >= self._most:
            return False
        self._at_s.append(now_s)
        self.losses.append(loss.what)
        return True

    def forgive(self) -> None:
        """What the losses came from is known, and does not come again."""
        self._at_s.clear()

    def refused(self, loss: HostError) -> HostError:
        """The end of the run, with its history."""
        if not self.losses:
            return loss
        before = "; ".join(shorten(what, 60) for what in self.losses[-self._most :])
        error = HostError(
            loss.code, loss.what, at=loss.at, got=f"{len(self.losses)} before: {before}",
            expected=f"at most {self._most} within {self._window_s:g} s", try_=loss.try_,
        )  # fmt: skip
        error.__cause__ = loss
        return error
