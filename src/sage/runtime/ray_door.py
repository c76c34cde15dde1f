"""The control link between a driver and a host of its machine: a socket, as between the processes of one machine."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Collection

from sage.errors import HostError
from sage.processes import at_other_end
from sage.runtime.messages import SocketLink

PATIENCE_S = 60.0
"""How long who should come may take: all have knocked already."""


class Door:
    """Where hosts of this machine knock, before their driver lets them in. They know each other by process id and user,
    which the kernel tells; so nobody else gets in who learns the name."""

    def __init__(self, most: int) -> None:
        """For so many hosts."""
        self.name = secrets.token_hex(16)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(_address(self.name))
        self._listener.settimeout(PATIENCE_S)
        self._listener.listen(most)

    def let_in(self, processes: Collection[int]) -> dict[int, SocketLink]:
        """The links of these processes, all of which have knocked."""
        links: dict[int, SocketLink] = {}
        while len(links) < len(processes):
            knocking, _ = self._listener.accept()
            process, is_ours = _other_end(knocking)
            if is_ours and process in processes:
                links[process] = SocketLink(knocking)
            else:
                knocking.close()
        return links

    def close(self) -> None:
        """Nobody comes any more."""
        self._listener.close()


def knock(name: str, driver: int) -> SocketLink:
    """The link to the process `driver` of this machine. Raises `HostError` where another one is behind the door."""
    ours = socket.socket(socket.AF_UNIX)
    ours.connect(_address(name))
    process, is_ours = _other_end(ours)
    if not is_ours or process != driver:
        ours.close()
        raise HostError("E811", "another process answers in the place of the driver", got=process, expected=str(driver))
    return SocketLink(ours)


def _address(name: str) -> str:
    """In the kernel's own namespace of sockets: no file is left behind."""
    return f"\0sage-run-{name}"


def _other_end(end: socket.socket) -> tuple[int, bool]:
    """Its process, and whether it is of this user."""
    process, user = at_other_end(end)
    return process, user == os.geteuid()
