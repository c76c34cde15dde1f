"""Those who wait for their turn, as futures of an event loop: what `sage.llm.balancer` decides becomes of each."""

from __future__ import annotations

import asyncio
import math

from sage.errors import EndpointBusy
from sage.llm.balancer import Balancer, Grant, Outcome
from sage.llm.pooled import loop_time
from sage.llm.turns import Ticket


class Turnstile:
    """Before the endpoints of `balancer`; used in one event loop. `close` it. Errors name `name`."""

    def __init__(self, balancer: Balancer, name: str) -> None:
        self._balancer = balancer
        self._name = name
        self._turns: dict[Ticket, asyncio.Future[Grant]] = {}
        """Of those that wait."""
        self._hurried: set[str] = set()
        """Jobs that wait no longer for an endpoint that is away."""
        self._alarm: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Those that wait raise RuntimeError. May be called twice."""
        turns, self._turns = self._turns, {}
        for ticket, turn in turns.items():
            self._balancer.withdraw(ticket)
            if not turn.cancelled():
                turn.set_exception(RuntimeError(f"{self._name} was closed"))
        if self._alarm is not None:
            self._alarm.cancel()

    async def turn(self, ticket: Ticket, until: float, *, first: bool) -> Grant:
        """Wait until it may be sent. Withdrawn at once if the caller goes away. Raises `EndpointBusy` E723 where too
        many wait already, and E724 where its turn did not come `until` then."""
        turn: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._balancer.wait(ticket, first=first)
        self._turns[ticket] = turn
        self.dispatch()
        if turn.done():  # there was room: no timer is needed
            return turn.result()
        try:
            async with asyncio.timeout_at(until):
                return await turn
        except TimeoutError:
            self._give_up(ticket, turn)
            expected = "room at an endpoint within its wait_timeout_s"
            raise EndpointBusy("E724", "no endpoint had room in time", at=self._name, expected=expected) from None
        except asyncio.CancelledError:
            self._give_up(ticket, turn)
            raise

    def end(self, grant: Grant, outcome: Outcome, retry_after_s: float | None = None) -> None:
        """Its place is free."""
        self._balancer.end(grant, loop_time(), outcome, retry_after_s=retry_after_s)
        self.dispatch()

    def hurry(self, job: str) -> None:
        """Its requests that can only go when an endpoint comes back raise `EndpointBusy` E724."""
        self._hurried.add(job)
        self.dispatch()

    def forget(self, job: str) -> None:
        self._hurried.discard(job)

    def dispatch(self) -> None:
        """Wake everybody whose turn it is, and see that this is called again when a pause ends."""
        now = loop_time()
        while grants := self._balancer.grants(now):
            for grant in grants:
                turn = self._turns.pop(grant.ticket)
                if turn.cancelled():  # and its task does not know yet
                    self._balancer.end(grant, now, Outcome.UNKNOWN)
                else:
                    turn.set_result(grant)
        if self._hurried and self._balancer.is_closed(now):
            self._turn_away()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        at = self._balancer.wakes_at(now)
        if at < math.inf:
            self._alarm = asyncio.get_running_loop().call_at(at, self.dispatch)

    def _give_up(self, ticket: Ticket, turn: asyncio.Future[Grant]) -> None:
        if self._turns.pop(ticket, None) is not None:
            self._balancer.withdraw(ticket)
        elif not turn.cancelled():  # it was granted, and the caller went away before it heard of that
            self.end(turn.result(), Outcome.UNKNOWN)

    def _turn_away(self) -> None:
        for ticket in [ticket for ticket in self._turns if ticket.job in self._hurried]:
            self._balancer.withdraw(ticket)
            turn = self._turns.pop(ticket)
            if not turn.cancelled():
                busy = EndpointBusy("E724", "no endpoint can be asked now, and the run is to stop", at=self._name)
                turn.set_exception(busy)
