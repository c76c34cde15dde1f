"""Waiting for a ring in shared memory: for items, for room, and for others to give up what they hold.

A consumer that finds nothing looks again for some microseconds before it sleeps, for to be woken takes longer, and its
producer the price of a system call. It does so only while that brings something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sage.errors import QueueBroken
from sage.queues.gathering import Gathering
from sage.queues.peers import CONSUMER, PRODUCER, Peers
from sage.queues.queue import Empty, Full, closed_error, deadline_of
from sage.queues.ring import Claims, Ring
from sage.queues.ring_layout import Side
from sage.queues.robust import let_others_run
from sage.queues.waited import Waited

_WATCH_S = 0.5  # how often those who wait look whether the other end is alive
SETTLE_S = 0.1
"""How long a process may take to give up what it holds, before others go on without it."""
_CALL_AGAIN_S = 0.005
_NAP_S = 50e-6
_LOOK_S = 200e-6  # longer than it takes to wake the other process and have its answer: else both sleep by turns
_TRUST, _MOST_TRUST = 4, 64
_PROBE = 16  # without trust, one wait in so many begins with a look all the same
_Result = TypeVar("_Result")


class Waiting:
    """What a handle waits for. Every method may be called from any thread."""

    def __init__(self, ring: Ring, peers: Peers, gathering: Gathering, queue_id: str) -> None:
        self._ring = ring
        self._peers = peers
        self._gathering = gathering
        self._queue_id = queue_id
        self._trust = self._waits = 0
        self.begin()

    def begin(self) -> None:
        """As if nobody had waited: in a forked child, whoever does is a thread of its parent."""
        self.for_room, self.for_items = Waited(), Waited()

    def until_room(
        self, attempt: Callable[[], _Result], deadline: float | None, *, in_spite_of_end: bool = False
    ) -> _Result:
        """What `attempt` brings as soon as it brings something. Raises `Full`, `QueueClosed` or `QueueBroken`."""
        with self.for_room:
            if deadline is None or deadline - time.monotonic() > _NAP_S:
                self._ring.putting.bell.nap(_NAP_S)  # a busy consumer need not wake this process for each item
            return self._until(attempt, self._ring.putting, Full, deadline, in_spite_of_end)

    def until_items(self, attempt: Callable[[], _Result | None], block: bool, timeout: float | None) -> _Result:
        """The same for `Empty`."""
        deadline = deadline_of(timeout if block else 0.0, time.monotonic())
        with self.for_items:
            if block and timeout != 0 and self._look():
                result = attempt()
                if result:
                    return result
            return self._until(attempt, self._ring.getting, Empty, deadline)

    def _look(self) -> bool:
        """Whether items come in time to make a sleep a waste."""
        self._waits += 1
        if not self._trust and self._waits % _PROBE:
            return False
        until = time.monotonic() + _LOOK_S
        while not self._ring.depth():
            if time.monotonic() >= until or self._ring.closed:
                self._trust = max(0, self._trust - 1)
                return False
            let_others_run()
        self._trust = min(self._trust + _TRUST, _MOST_TRUST)
        return True

    def _until(
        self,
        attempt: Callable[[], _Result | None],
        side: Side,
        nothing: type[Exception],
        deadline: float | None,
        in_spite_of_end: bool = False,
    ) -> _Result:
        """Attempt until it brings something, the queue is at its end, or nobody is left at the other end."""
        watched = time.monotonic()
        asked = 0  # items that were away when others were called last
        patience: float | None = None  # until when others may take their time to give up what they hold
        while True:
            side.expect()
            closed = self._ring.closed and not in_spite_of_end  # looked at before the attempt: what was put is got
            claims = self._ring.claims()
            result = attempt()
            if result:
                return result
            now = time.monotonic()
            if closed or (deadline is not None and now >= deadline):
                away = max(claims.away, self._ring.claims().away)  # perhaps all went away since then
                settled = self.is_settled(claims, side) and away == asked
                patience = patience or now + SETTLE_S
                if now >= patience or settled or (closed and nothing is Full):
                    if not closed:
                        raise nothing
                    if nothing is Full or self._ring.end():
                        raise closed_error(self._queue_id)
                    if deadline is not None and now >= max(deadline, patience):
                        raise nothing  # what is left is lent to a process that stands still
                if now - watched >= _WATCH_S:
                    self._ring.recover()
                    watched = now
                asked = away
                self.call(claims, items=nothing is Empty)
                side.bell.wait(_CALL_AGAIN_S)
                continue
            if now - watched >= _WATCH_S:
                self._watch(CONSUMER if nothing is Full else PRODUCER)
                watched = now
                if nothing is Full:
                    self.call(claims)  # ends on other machines keep places that they do not use
            if nothing is Empty:
                self._ring.call_holders(claims._replace(held=0, away=0))
            elif claims.away:
                self._gathering.settle_server(SETTLE_S)
                self._ring.call_holders(claims._replace(held=0))
            watch_s = _WATCH_S * max(1, self.for_room.now + self.for_items.now)  # each of them in its turn
            side.bell.wait(watch_s if deadline is None else min(watch_s, deadline - now))

    def pause(self, side: Side, is_worth_another: Callable[[], bool], timeout_s: float) -> None:
        """Wait at `side` for a change, no longer than `timeout_s`, and not at all if `is_worth_another`."""
        side.expect()
        if is_worth_another():
            return
        if not side.bell.wait(min(timeout_s, _WATCH_S)):
            self._ring.recover()

    def settle(self) -> None:
        """Wait until what was put before is in the ring; those that do not answer in time keep what they have."""
        claims = self._ring.claims()
        if claims.away:
            self._gathering.settle_server(SETTLE_S)
        if not claims.places:
            return
        until = time.monotonic() + SETTLE_S
        held = self._peers.held.tolist()
        self.call(claims)
        side = self._ring.putting
        while any(places and places == was for places, was in zip(self._peers.held.tolist(), held, strict=True)):
            if time.monotonic() >= until:
                return
            side.expect()
            self.call(self._ring.claims())
            side.bell.wait(_CALL_AGAIN_S)

    def call(self, claims: Claims, *, items: bool = False) -> None:
        """Have everybody give up what they hold, this process first; with `items` also those that others were sent."""
        self._gathering.settle()
        self._gathering.settle_server(SETTLE_S, items=items)
        self._ring.call_holders(claims)

    def is_settled(self, claims: Claims, side: Side) -> bool:
        """Whether nobody held anything that matters there since `claims` were looked at."""
        now = self._ring.claims()
        if now.held != claims.held or claims.places:
            return False
        return side is self._ring.putting or (now.loan == claims.loan and (not now.loan or self._ring.on_loan))

    def _watch(self, others: int) -> None:
        """Recover what processes that died had; raise if nobody is left at the other end."""
        self._ring.recover()
        process = self._peers.bereaved_of(others)
        if process:
            for side in (self._ring.putting, self._ring.getting):  # those whose turn has not come
                side.bell.ring()
            what = f"the last {'consumer' if others == CONSUMER else 'producer'} died (process {process})"
            raise QueueBroken("E506", what, at=f"queue {self._queue_id}", try_="start another one")
