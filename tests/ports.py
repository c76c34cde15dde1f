"""Ports for servers that tests start later."""

import random
import socket

_OURS = range(20_000, 32_000)
"""Below those that the system hands out by itself, to clients as well: what is free here stays so."""
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of loopback at which nothing listens."""
    while True:
        port = _chance.choice(_OURS)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:  # somebody is there
                continue
        return port
