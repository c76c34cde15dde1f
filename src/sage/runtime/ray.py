"""The engine of a cluster: hosts are actors of Ray on its nodes. Ray starts and watches them; it carries no records."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sage.errors import HostError, UsageError
from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.flow.shipping import kept_apart
from sage.queues import LocalQueueDescriptor, SharedMemoryQueueDescriptor, new_key
from sage.runtime.deadletters import reason_of
from sage.runtime.edges import queues_of
from sage.runtime.engine import Made
from sage.runtime.messages import Parcel, Setup
from sage.runtime.placement import HOME, Placement
from sage.runtime.processes import processor_s_of
from sage.runtime.ray_cluster import connected, nodes_of_cluster
from sage.runtime.ray_host import RayHost
from sage.runtime.ray_link import Address, ControlWay, NodeWay, QueueLink, here, serve
from sage.runtime.ray_placement import MOST_HOSTS, demands_of, place_on, seats_on
from sage.scheduling import scheduler_named

if TYPE_CHECKING:
    from sage.queues.remote.server import QueueServer  # msgspec comes with it

START_S = 120.0
"""How long a host may take to start: a second where the machine is idle, many where all of them start at once."""
AGAIN_S = 15.0
"""The same at least, when the run begins again, or twice what it took the first time. What does not start a host by
then is left out."""
GONE_S = 5.0
"""How long an actor may take to be gone after it was told so."""
CONTROL_MESSAGES = 10_000


class RayEngine:
    """Up to `hosts` hosts on the nodes of a cluster, of which this process is the driver.

    Made when the cluster is reached: at `address`, or a private one. Raises `SageError` where it is not.
    """

    sees_files = False

    def __init__(self, address: str | None, hosts: int | None, scheduler: str | None, *, insecure: bool) -> None:
        self._scheduler = scheduler_named(scheduler or "adaptive")
        if hosts is not None and (type(hosts) is not int or not 1 <= hosts <= MOST_HOSTS):
            raise UsageError("E111", "the number of hosts is not possible", got=hosts, expected=f"1 to {MOST_HOSTS}")
        self._held = ExitStack()
        self._actors: dict[int, Any] = {}
        self._addresses: dict[int, Address] = {}
        self._server: QueueServer | None = None
        self._shipping = threading.Lock()
        self._shipped: Any = None
        self._wanted = hosts
        self._left_out: set[str] = set()
        self._patience_s = START_S
        self._is_first = True
        try:
            self._held.enter_context(connected(address, insecure=insecure))
            self._nodes = nodes_of_cluster()
            self._seats = seats_on(self._nodes, hosts)
        except BaseException:
            self._held.close()
            raise

    @property
    def hosts(self) -> int:
        """How many there can be."""
        return len(self._seats)

    def place(self, graph: ExecutionGraph) -> Placement:
        self._key = new_key()
        self._addresses[HOME], self._server = serve(self._key)
        if not self._is_first:
            self._look_around()
        self._placement = place_on(graph, self._nodes, self._seats, self._scheduler)
        while late := self._start_actors(graph):
            self._end_actors()
            self._left_out |= late
            self._look_around()
            self._placement = place_on(graph, self._nodes, self._seats, self._scheduler)
        self._is_first = False
        return self._placement

    def queues(self, task: TaskPlan, producers: Sequence[int]) -> Sequence[Made]:
        hosts = self._placement.hosts[task.name]
        made = []
        for index, maxsize in enumerate(queues_of(task)):
            takers = {hosts[index]} if task.keyed else set(hosts)
            owner = takers.pop() if len(takers) == 1 else HOME
            made.append(self._queue(SharedMemoryQueueDescriptor(maxsize=maxsize), owner))
        return made

    def host(self, number: int) -> RayHandle:
        assert self._server is not None
        address = self._addresses[number]
        return RayHandle(self._actors[number], address, self._addresses[HOME], self._server, self._shared)

    def clear(self) -> None:
        """End the actors that are left, and what was begun for this attempt; the next is for the nodes that answer."""
        self._end_actors()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._addresses.clear()
        self._shipped = None

    def _look_around(self) -> None:
        """See which nodes are left: those that answer, and started what they were asked to."""
        self._nodes = [node for node in nodes_of_cluster(answering=True) if node.name not in self._left_out]
        self._seats = seats_on(self._nodes, self._wanted)

    def close(self) -> None:
        """The same, and let go of the cluster; one that was private ends with it."""
        self.clear()
        self._held.close()

    def _end_actors(self) -> None:
        """Those of this node are gone then; Ray sees to the others, within seconds also where one does not answer."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        near = [self._addresses[number] for number in self._actors if number in self._addresses]
        until = time.monotonic() + GONE_S
        while near and time.monotonic() < until:
            near = [address for address in near if address.node == here() and processor_s_of(address.process)]
            time.sleep(0.005)
        self._actors.clear()

    def _start_actors(self, graph: ExecutionGraph) -> set[str]:
        """All at once: a node starts several in the time of one. Returns the nodes that are too late, when the run
        begins again."""
        import ray

        began_s = time.monotonic()
        node_of = {seat.number: seat.node for seat in self._seats}
        for number, demands in _demands(graph, self._placement).items():
            options = _options(demands, node_of[number])
            self._actors[number] = ray.remote(RayHost).options(**options).remote()
        calls = {number: actor.listen.remote(self._key) for number, actor in self._actors.items()}
        late = ray.wait(list(calls.values()), num_returns=len(calls), timeout=self._patience_s)[1] if calls else []
        if late and not self._is_first:
            return {node_of[number] for number, call in calls.items() if call in late}
        for number, call in calls.items():
            if call in late:
                raise _not_started(node_of[number], f"its node did not start it within {self._patience_s:.0f} s")
            with _died(node_of[number]):
                self._addresses[number] = ray.get(call)
        if self._is_first:
            self._patience_s = max(AGAIN_S, 2 * (time.monotonic() - began_s))
        return set()

    def _queue(self, memory: SharedMemoryQueueDescriptor, owner: int) -> Made:
        way = NodeWay(self._addresses[owner], memory)
        if owner != HOME:
            import ray

            with _died(self._addresses[owner].host):
                ray.get(self._actors[owner].own.remote(memory), timeout=START_S)
            return Made(way, way.open())
        queue: Any = memory.create()
        assert self._server is not None
        self._server.serve(memory.queue_id, queue)
        return Made(way, queue)

    def _shared(self, plan: Parcel) -> Any:
        """`plan` in Ray's object store, where each node keeps it once, and hosts read large buffers in place."""
        import ray

        with self._shipping:
            if self._shipped is None:
                data, buffers = plan
                self._shipped = ray.put((data, [kept_apart(buffer) for buffer in buffers]))
            return self._shipped


class RayHandle:
    """One actor, from the call that lasts as long as the run to its end."""

    def __init__(
        self, actor: Any, address: Address, driver: Address, server: QueueServer, ship: Callable[[Parcel], Any]
    ) -> None:
        self._actor = actor
        self._address = address
        self._is_near = address.node == driver.node
        self._server = server
        self._ship = ship
        ways = [LocalQueueDescriptor(maxsize=CONTROL_MESSAGES) for _ in range(2)]
        self._control = ControlWay(driver, *(way.queue_id for way in ways))
        down, up = queues = [way.create() for way in ways]
        for way, queue in zip(ways, queues, strict=True):
            server.serve(way.queue_id, queue)  # type: ignore[arg-type]
        self.link = QueueLink(incoming=up, outgoing=down)
        self._run: Any = None

    def start(self, setup: Setup) -> None:
        self._run = self._actor.run.remote(self._control, self._ship(setup.plan))
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
            self.link.shut()
            self._server.withdraw(self._control.down)
            self._server.withdraw(self._control.up)

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)

    @property
    def process(self) -> int | None:
        return self._address.process

    def processor_s(self) -> float | None:
        return processor_s_of(self._address.process) if self._is_near else None


def _demands(graph: ExecutionGraph, placement: Placement) -> dict[int, Counter[str]]:
    """By host that something was placed on: what its instances ask for."""
    demands: dict[int, Counter[str]] = {}
    for task in graph.tasks:
        for host in placement.hosts[task.name]:
            if host != HOME:
                demands.setdefault(host, Counter()).update(demands_of(graph, task))
    return demands


def _options(demands: Counter[str], node: str) -> dict[str, Any]:
    """How Ray is asked for a host. It reserves what steps ask for, and nothing where they do not."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    custom = dict(demands)
    return {
        "num_cpus": custom.pop("cpu", 0),
        "num_gpus": custom.pop("gpu", 0),
        "memory": custom.pop("memory_bytes", None),
        "resources": custom,
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }


@contextmanager
def _died(node: str) -> Iterator[None]:
    """What is asked of a host that is starting is not answered because it died."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise _not_started(node, str(error).rstrip().rpartition("\n")[2]) from error


def _not_started(node: str, why: str) -> HostError:
    return HostError(
        "E811", f"a host cannot be started: {why}", at=f"node {node}",
        try_="ray status: whether what the steps ask for is taken",
    )  # fmt: skip
