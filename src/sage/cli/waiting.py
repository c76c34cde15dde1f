"""Waiting for Ctrl-C while other threads work."""

from __future__ import annotations

import select
import signal
import socket


def wait_for_interrupt() -> None:
    """Wait until a signal's handler raises, on the main thread.

    Waiting for a lock may miss a signal that comes just before it begins; one that writes to a socket is not missed.
    """
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                select.select([here], [], [])
                here.recv(64)
        finally:
            signal.set_wakeup_fd(before)
