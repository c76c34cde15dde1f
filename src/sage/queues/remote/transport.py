"""What carries messages between a client and a server: two small contracts, so that it can be exchanged.

A transport may lose messages while it is disconnected, and reconnects by itself. Numbers, acknowledgements and
repetition are the business of `stream.py` above it. Authentication is the transport's own business: what it hands up
comes from somebody who knows the secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

Part: TypeAlias = Any
"""Bytes-like. The first part of a received message is `bytes`."""
Parts: TypeAlias = Sequence[Part]


class Connection(Protocol):
    """The client's end."""

    def send(self, parts: Parts) -> None:
        """From any thread, one at a time. Never waits; where there is no connection now, the message is lost."""

    def receive(self, timeout_s: float) -> Parts | None:
        """For one thread: the next message; None after `timeout_s`, or when woken."""

    def wake(self) -> None:
        """From any thread: have `receive` return None soon."""

    def failure(self) -> str | None:
        """Why there is nobody at the other end, for certain, as part of a sentence; None if there may be.

        For the thread that receives.
        """

    def close(self) -> None:
        """Give up the connection, after what was sent has left, or a second."""


class Listener(Protocol):
    """The server's end. Peers are known by their names, which they choose at random."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    def send(self, peer: bytes, parts: Parts) -> bool:
        """From any thread, one at a time. Never waits. False where `peer` is known not to be connected: the message is
        lost."""

    def receive(self, timeout_s: float) -> tuple[bytes, Parts] | None:
        """For one thread: the next message and whose it is; None after `timeout_s`, or when woken."""

    def wake(self) -> None:
        """From any thread: have `receive` return None soon."""

    def close(self) -> None:
        """Stop listening, after what was sent has left, or a second."""
