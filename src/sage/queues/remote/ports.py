"""A client's hold on a queue that is served."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from sage.queues.frames import Frame
from sage.queues.remote.messages import Message
from sage.queues.remote.transport import Parts


class Peer(Protocol):
    """A client, as far as its ports need it."""

    @property
    def is_congested(self) -> bool: ...

    def send(self, message: Message, parts: Parts = ()) -> None: ...


class Serving(Protocol):
    """What has the port: its messages go there."""

    def handle(self, port: Port, message: Message, parts: Parts) -> None: ...

    def detach(self, port: Port) -> None: ...

    def resume(self) -> None: ...


@dataclass(eq=False)
class Port:
    """One client's hold on the queue."""

    service: Serving
    client: Peer
    number: int
    places: int = 0
    """Reserved for it, and not used."""
    size: int = 0
    """Bytes that it may use, of those that are free."""
    granted: int = 0
    granted_size: int = 0
    """Places and bytes, ever."""
    needed: int = 0
    needed_size: int = 0
    frames: int = 0
    """That came and are in the queue, or were rejected."""
    accepted: int = 0
    """Of those, how many it was told."""
    untold_bytes: int = 0
    prompt: bool = False
    waiting_frames: deque[Frame] = field(default_factory=deque)
    """That came, and for whose bytes there was no room."""
    returned: list[Frame] = field(default_factory=list)
    """That were sent to it, and that nobody gets there."""
    upto: int = 0
    got: int = 0
    delivered: int = 0
    confirmed: int = 0
    knows_closed: bool = False
    is_silent: bool = False
    """It did not answer a recall; it is not asked again before it says something."""
    has_ended: bool = False
    is_detached: bool = False

    @property
    def wants_room(self) -> bool:
        """Whether something is to be given to it, or put for it, as soon as there is room."""
        return bool(self.needed or self.needed_size or self.waiting_frames)

    @property
    def takes_items(self) -> bool:
        """Whether it may be sent items now."""
        return self.demand > 0 and not self.has_ended and not self.client.is_congested

    @property
    def demand(self) -> int:
        """Items that it may be sent now."""
        return self.upto - self.delivered

    @property
    def holds_items(self) -> bool:
        """Whether others could have items that were sent to it."""
        return self.is_away and not self.is_silent

    def is_worth_asking(self, closed: bool) -> bool:
        """Whether a recall may change anything, `closed` telling whether the queue is."""
        return not self.is_silent and (self.holds_something or (closed and not self.knows_closed))

    @property
    def holds_something(self) -> bool:
        """Whether others could have it."""
        return self.places > 0 or self.size > 0 or self.is_away

    @property
    def is_away(self) -> bool:
        """Whether items that were sent to it are neither known to be got nor in the queue again."""
        return self.delivered > self.confirmed or bool(self.returned)
