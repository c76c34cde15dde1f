"""The endpoints and the pool before them, in virtual time: the balancer of `sage.llm` over engines of time alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sage.llm.balancer import Balancer, Grant, Outcome
from sage.llm.simulated.engine import Engine
from sage.llm.simulated.profile import Profile
from sage.llm.simulated.sequence import Request, Running
from sage.llm.turns import Ticket
from sage.scheduling.limiter import Flight
from sage.simulation.agenda import Agenda
from sage.simulation.task import Task

MOST_WAITING = 10**9
START = 8


class Door(Protocol):
    """Who lets requests through to the endpoints; `Balancer` is one."""

    @property
    def waiting(self) -> int: ...

    def wait(self, ticket: Ticket) -> None: ...

    def grants(self, now: float) -> list[Grant]: ...

    def progress(self, grant: Grant, now: float, output_tokens: float) -> None: ...

    def end(self, grant: Grant, now: float, outcome: Outcome) -> None: ...


class OpenDoor:
    """No limit and no order: everything goes to the endpoints at once, in turn."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._new: deque[Ticket] = deque()
        self._sent = 0

    @property
    def waiting(self) -> int:
        return len(self._new)

    def wait(self, ticket: Ticket) -> None:
        self._new.append(ticket)

    def grants(self, now: float) -> list[Grant]:
        granted = []
        while self._new:
            name = self._names[self._sent % len(self._names)]
            self._sent += 1
            granted.append(Grant(self._new.popleft(), name, Flight(0.0), now))
        return granted

    def progress(self, grant: Grant, now: float, output_tokens: float) -> None:
        """Nobody asks."""

    def end(self, grant: Grant, now: float, outcome: Outcome) -> None:
        """Nobody asks."""


class _Server:
    """One engine, and whether its next step is on the agenda."""

    def __init__(self, name: str, profile: Profile, seed: int) -> None:
        self.name = name
        self.engine = Engine(profile, seed)
        self.calls: dict[int, tuple[Task, Grant]] = {}
        self.busy_s = 0.0
        self.began_s = 0.0
        self.armed = False


class SimulatedPool:
    """All endpoints. `answered` is told when a record's call is over."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        agenda: Agenda,
        answered: Callable[[Task], None],
        weights: dict[str, float],
        *,
        limited: bool,
        seed: int,
    ) -> None:
        names = [f"e{index}" for index in range(len(profiles))]
        self.servers = [
            _Server(name, profile, seed + i) for i, (name, profile) in enumerate(zip(names, profiles, strict=True))
        ]
        self._by_name = {server.name: server for server in self.servers}
        self._agenda = agenda
        self._answered = answered
        self._weights = weights
        most = max((profile.max_seqs for profile in profiles), default=1)
        self._balancer = Balancer(names, start=START, most=4 * most, most_waiting=MOST_WAITING) if limited else None
        self._door: Door = self._balancer or OpenDoor(names)
        self._tasks: dict[int, Task] = {}
        self._sent = 0
        self._dirty = False

    @property
    def limit(self) -> int:
        """Requests that the pool would have in flight now."""
        if self._balancer is None:
            return MOST_WAITING
        return sum(endpoint.limit.limit for endpoint in self._balancer.snapshot(self._agenda.now))

    @property
    def output_tokens(self) -> int:
        return sum(server.engine.snapshot().output_tokens for server in self.servers)

    def call(self, task: Task) -> None:
        """Its phase asks for an answer."""
        phase = task.demand.phases[task.phase]
        tokens = float(phase.prompt_tokens + phase.output_tokens)
        ticket = Ticket(tokens, phase.prompt_tokens, task.job, weight=self._weights[task.job], band=-task.demand.band)
        self._tasks[id(ticket)] = task
        self._door.wait(ticket)
        self._dirty = True

    def settle(self) -> None:
        """Send what may be sent, if anything has happened since the last time."""
        if not self._dirty:
            return
        self._dirty = False
        now = self._agenda.now
        for grant in self._door.grants(now):
            self._send(self._tasks.pop(id(grant.ticket)), grant, now)

    def _send(self, task: Task, grant: Grant, now: float) -> None:
        task.queueing_s += now - task.since_s
        task.since_s = now
        server = self._by_name[grant.endpoint]
        phase = task.demand.phases[task.phase]
        self._sent += 1
        server.calls[self._sent] = (task, grant)
        server.engine.submit(Request(self._sent, phase.prompt_tokens, phase.output_tokens), now)
        self._arm(server)

    def _arm(self, server: _Server) -> None:
        at = server.engine.next_event()
        if not server.armed and at is not None:
            server.armed = True
            server.began_s = self._agenda.now
            self._agenda.at(at, self._step, server)

    def _step(self, server: _Server) -> None:
        now = self._agenda.now
        server.armed = False
        server.busy_s += now - server.began_s
        step = server.engine.advance(now)
        assert step is not None
        for sequence in step.tokens:
            self._door.progress(server.calls[_id(sequence)][1], now, 1)
        for sequence in step.finished:
            task, grant = server.calls.pop(_id(sequence))
            self._door.end(grant, now, Outcome.DONE)
            task.execution_s += now - task.since_s
            task.since_s = now
            self._answered(task)
        self._dirty = True
        self._arm(server)


def _id(sequence: Running) -> int:
    number = sequence.request.id
    assert isinstance(number, int)
    return number
