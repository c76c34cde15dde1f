"""Gateways of jobs that died are started again where they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from sage.errors import SageError
from sage.jobs.endpoints import GatewayFolder


class Revival:
    """Each in a thread of its own: it takes a second, and the jobs that ask the gateway wait meanwhile."""

    def __init__(self, say: Callable[[str], None], wake: Callable[[], None]) -> None:
        """`wake` is called, from any thread, when one is there again, or cannot be."""
        self._say = say
        self._wake = wake

    def see_to(self, gateways: Iterable[GatewayFolder]) -> None:
        """Start those again that do not live. Returns at once."""
        for gateway in gateways:
            if gateway.process() is None:
                self._say(f"the gateway {gateway.path.name} ended, and is started again")
                threading.Thread(target=self._start, args=(gateway,), daemon=True).start()

    def _start(self, gateway: GatewayFolder) -> None:
        try:
            gateway.started()
        except (SageError, OSError) as error:
            self._say(f"the gateway {gateway.path.name} cannot be started: {error}")
        self._wake()
