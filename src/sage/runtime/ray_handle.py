"""The driver's end of a host that is an actor of Ray: its control link, its start and its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sage.queues import LocalQueueDescriptor
from sage.runtime.deadletters import reason_of
from sage.runtime.messages import Link, Parcel, Setup, SocketLink
from sage.runtime.processes import processor_s_of
from sage.runtime.ray_link import Address, CallsWay, ControlWay, QueueLink, called_by

if TYPE_CHECKING:
    from sage.queues.remote.server import QueueServer  # msgspec comes with it

CONTROL_MESSAGES = 10_000


class Control:
    """The driver's ends of the control link of a host: queues of its own, which it serves."""

    def __init__(self, server: QueueServer, driver: Address) -> None:
        self._server = server
        ways = [LocalQueueDescriptor(maxsize=CONTROL_MESSAGES) for _ in range(2)]
        self._way = ControlWay(driver, *(way.queue_id for way in ways))
        down, up = queues = [way.create() for way in ways]
        for way, queue in zip(ways, queues, strict=True):
            server.serve(way.queue_id, queue)  # type: ignore[arg-type]
        self.link = QueueLink(incoming=up, outgoing=down)

    @property
    def way(self) -> ControlWay | CallsWay:
        """For the host."""
        return self._way

    def end(self) -> None:
        """The host is gone."""
        self.link.shut()
        self._server.withdraw(self._way.down)
        self._server.withdraw(self._way.up)


class CallsControl:
    """The same by calls of Ray: queues of the actor `caller`."""

    def __init__(self, caller: str) -> None:
        self._way = CallsWay(*(called_by(caller, CONTROL_MESSAGES) for _ in range(2)))
        self.link = QueueLink(incoming=self._way.up.create(), outgoing=self._way.down.create())

    @property
    def way(self) -> ControlWay | CallsWay:
        """For the host."""
        return self._way

    def end(self) -> None:
        """The host is gone."""
        self.link.shut()


class NearControl:
    """The same to a host of this machine: a socket, which it has the other end of."""

    way = None

    def __init__(self, link: SocketLink) -> None:
        self.link = link

    def end(self) -> None:
        """The host is gone."""
        self.link.shut()


class RayHandle:
    """One actor, from the call that lasts as long as the run to its end."""

    def __init__(
        self, actor: Any, address: Address, control: Control | CallsControl | NearControl,
        ship: Callable[[Parcel], Any],
    ) -> None:  # fmt: skip
        self._actor = actor
        self._address = address
        self._control = control
        self._ship = ship
        self.link: Link = control.link
        self._run: Any = None

    def start(self, setup: Setup) -> None:
        self._run = self._actor.run.remote(self._control.way, self._ship(setup.plan))
        self.link.send(replace(setup, plan=(b"", ())))

    def wait(self) -> str:
        import ray

        process = f"process {self._address.process} on node {self._address.host}"
        try:
            why = ray.get(self._run)
            return f"{process} ended" + (f", because its link to this process did: {why}" if why else "")
        except ray.exceptions.RayTaskError as error:
            return f"{process} failed ({reason_of(error.cause)})"
        except ray.exceptions.RayError:
            return f"{process} was killed, or its node was"
        finally:
            self._control.end()

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)

    @property
    def process(self) -> int | None:
        return self._address.process

    def processor_s(self) -> float | None:
        return processor_s_of(self._address.process) if isinstance(self._control, NearControl) else None
