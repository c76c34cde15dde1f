"""Gateways of jobs that died are started again where they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from sage.errors import SageError
from sage.jobs.endpoints import GatewayFolder

RETRY_S = 2.0
"""After which what could not be stored, or not be started yet, is tried again."""


class Revival:
    """Each in a thread of its own: it takes a second, and the jobs that ask the gateway wait meanwhile."""

    def __init__(self, say: Callable[[str], None], wake: Callable[[], None], needed: Callable[[], bool]) -> None:
        """`wake` is called, from any thread, when one is there again; while one cannot be started, it is tried again
        as long as `needed`, called from any thread too, says so."""
        self._say = say
        self._wake = wake
        self._needed = needed

    def see_to(self, gateways: Iterable[GatewayFolder]) -> None:
        """Start those again that do not live. Returns at once."""
        for gateway in gateways:
            if gateway.process() is None:
                self._say(f"the gateway {gateway.path.name} ended, and is started again")
                threading.Thread(target=self._start, args=(gateway,), daemon=True).start()

    def _start(self, gateway: GatewayFolder) -> None:
        said = ""
        while self._needed():
            try:
                gateway.started()
            except (SageError, OSError) as error:
                if str(error) != said:
                    self._say(f"the gateway {gateway.path.name} cannot be started: {error}")
                said = str(error)
                time.sleep(RETRY_S)
            else:
                self._wake()
                return
