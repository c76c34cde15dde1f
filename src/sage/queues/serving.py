"""What a queue offers beside its own contract to a server that lets other machines reach it.

A remote producer may put without asking only where a place was reserved for it before (a credit). Reserved places count
as taken, so capacity is exact; they do not count as items. Items on their way to a remote consumer keep their places,
and count, until it is known that they were got.

What must not be is that somebody is told ``Full`` because of a place that nobody will use, or ``Empty`` while an item
waits in a producer's buffer. So before a queue says either, or a size, it asks its server to settle. A put that has to
wait does so too, and when the queue is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sage.queues.frames import Frame


class Settles(Protocol):
    """A server, as the queue that it serves sees it."""

    def settle(self, timeout_s: float, *, places: bool = True, items: bool = False) -> None:
        """Have remote producers send what they hold, and with `places` give back those that they do not use; have
        remote consumers tell what they got, and with `items` return what they did not get. If the queue is closed, they
        are told.

        Returns when all have, or after `timeout_s`: those that did not answer by then keep what they have. At once
        where nobody holds anything.
        """


class Served(Protocol):
    """A queue that can be served. No method waits, unless it says so; every one may be called from any thread."""

    @property
    def maxsize(self) -> int | None:
        """How many items fit; None: any number."""

    @property
    def max_bytes(self) -> int | None:
        """How many bytes fit; None: any number."""

    @property
    def closed(self) -> bool:
        """Whether puts are refused."""

    def close(self) -> None:
        """No more puts. May wait for `settle`."""

    def size(self) -> int:
        """How many items were put and not got, as far as it is known here: without settling."""

    def attach_server(self, server: Settles) -> None:
        """From now on ask `server` to settle."""

    def detach_server(self, server: Settles) -> None:
        """The opposite, and wake those who wait below. Does nothing if it is not attached."""

    def reserve(self, count: int) -> int:
        """Take up to `count` places for items to come; perhaps 0. Raises `QueueClosed`."""

    def release(self, count: int) -> None:
        """Give back reserved places, and wake those who wait for room."""

    def put_frame(self, frame: Frame) -> bool:
        """Put the items of `frame`, for which places were reserved. False: no room for its bytes now.

        Places of a queue that was closed meanwhile are still good, until somebody was told that nothing is left: then
        it raises `QueueClosed`. Raises E509 where the items cannot be unpickled, and this queue needs that.
        """

    def take_frames(self, count: int) -> list[Frame]:
        """Up to `count` items, none if there are none now; more where a frame of them cannot be unpickled here, for it
        goes as it is. They keep their places until `confirm`.

        Raises `QueueClosed` at the end of a closed queue.
        """

    def confirm(self, count: int) -> None:
        """So many of the items taken were got: free their places, and wake those who wait for room."""

    def put_back(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """The items of `frames`, the oldest first, were taken, and nobody got them: here they are again. Returns those
        for whose bytes there is no room now. What was put since may come before them."""

    def is_wanted(self) -> bool:
        """Whether somebody on this machine waits for items, as far as can be seen; `wait_for_items` does not count."""

    def free_bytes(self) -> int:
        """How many bytes fit now; more than there ever are where they are not limited."""

    def wait_for_room(self, timeout_s: float, is_enough: Callable[[bool], bool]) -> None:
        """Wait until `is_enough`, which is told whether a place is free, and looks at `free_bytes` itself; or until the
        queue was closed, or the time is over."""

    def wait_for_items(self, timeout_s: float) -> None:
        """Wait until `take_frames` may bring something, the queue was closed, or the time is over."""
