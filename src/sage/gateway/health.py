"""Whether requests get through."""

from __future__ import annotations

from collections.abc import Collection

from sage.gateway.books import Books
from sage.llm.pool import EndpointPool

STUCK_S = 15.0
"""Requests wait, and nothing has moved for so long: not healthy."""


class Health:
    """Progress, not presence: a gateway that answers and sends nothing on is ill."""

    def __init__(self, pools: Collection[EndpointPool], books: Books) -> None:
        self._pools = pools
        self._books = books
        self._moved_at = 0.0

    def moved(self, now: float) -> None:
        """A request was sent to an endpoint, or ended."""
        self._moved_at = now

    def troubles(self, now: float) -> list[str]:
        """Nothing, while all is well."""
        troubles = []
        if any(not any(endpoint.healthy for endpoint in pool.snapshot()) for pool in self._pools):
            troubles.append("a model has no endpoint that works")
        if any(pool.waiting for pool in self._pools) and now - self._moved_at > STUCK_S:
            troubles.append(f"requests wait, and none was sent or ended for {STUCK_S:g} s")
        if self._books.failure is not None:
            troubles.append("usage cannot be written down")
        return troubles
