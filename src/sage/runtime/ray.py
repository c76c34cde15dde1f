"""The engine of a cluster: hosts are actors of Ray on its nodes. Ray starts and watches them; it carries no records."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sage.errors import HostError, UsageError
from sage.flow.graph import ExecutionGraph, TaskPlan
from sage.flow.shipping import kept_apart
from sage.queues import SharedMemoryQueueDescriptor, new_key
from sage.runtime.control import Aborted
from sage.runtime.edges import queues_of
from sage.runtime.engine import Made
from sage.runtime.messages import Parcel, SocketLink
from sage.runtime.placement import HOME, Placed, Placement, with_routes
from sage.runtime.processes import processor_s_of
from sage.runtime.ray_cluster import connected, nodes_of_cluster
from sage.runtime.ray_door import Door
from sage.runtime.ray_handle import CallsControl, Control, NearControl, RayHandle
from sage.runtime.ray_host import RayHost
from sage.runtime.ray_link import Address, MachineWay, called_by, here, reaches, serve
from sage.runtime.ray_placement import MOST_HOSTS, demands_on, place_on, seats_on
from sage.scheduling import DEFAULT, scheduler_named

if TYPE_CHECKING:
    from sage.queues.remote.server import QueueServer  # msgspec comes with it

_log = logging.getLogger(__name__)
START_S = 120.0
"""How long a host may take to start: a second where the machine is idle, many where all of them start at once."""
AGAIN_S = 15.0
"""The same at least for a node that lost a host, or twice what it took the first time. If it does not start another by
then, it is left out."""
LOOK_S = 0.2
"""How soon it is noticed that nobody waits for hosts any more."""
FAR_PLACES = 64
"""For each host on another machine, in the queue of a task that is only here: who finds few left asks for each."""
GONE_S = 5.0
"""How long an actor may take to be gone after it was told so."""


class RayEngine:
    """Up to `hosts` hosts on the nodes of a cluster, of which this process is the driver.

    Made when the cluster is reached: at `address`, or a private one. Raises `SageError` where it is not.
    """

    sees_files = False

    def __init__(self, address: str | None, hosts: int | None, scheduler: str | None, *, insecure: bool) -> None:
        self.scheduler = scheduler_named(scheduler or DEFAULT)
        if hosts is not None and (type(hosts) is not int or not 1 <= hosts <= MOST_HOSTS):
            raise UsageError("E111", "the number of hosts is not possible", got=hosts, expected=f"1 to {MOST_HOSTS}")
        self._held = ExitStack()
        self._actors: dict[int, Any] = {}
        self._addresses: dict[int, Address] = {}
        self._near: dict[int, SocketLink] = {}
        self._server: QueueServer | None = None
        self._caller: str | None = None
        self._given_up = threading.Event()
        self._shipping = threading.Lock()
        self._shipped: Any = None
        self._wanted = hosts
        self._left_out: set[str] = set()
        self._doubtful: set[str] = set()
        self._patience_s = AGAIN_S
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
        self._placement = place_on(graph, self._nodes, self._seats, self.scheduler)
        while late := self._start_actors(graph):
            self._end_actors()
            self._left_out |= late
            self._look_around()
            self._placement = place_on(graph, self._nodes, self._seats, self.scheduler)
        self._is_first = False
        self._placement = with_routes(graph, self._placement)
        return replace(self._placement, why=tuple(map(self._with_way, self._placement.why)))

    def _with_way(self, placed: Placed) -> Placed:
        is_near = self._is_near(self._placement.hosts[placed.task][placed.instance])
        way = "by calls of Ray" if self._caller else "through shared memory" if is_near else "over a link"
        return replace(placed, where=f"{placed.where}, reached {way}")

    def _is_near(self, number: int) -> bool:
        return self._addresses[number].machine == self._addresses[HOME].machine

    def give_up(self) -> None:
        self._given_up.set()

    def queues(self, task: TaskPlan, producers: int, placement: Placement) -> Sequence[Made]:
        hosts = placement.hosts[task.name]
        routed = list(placement.slots(task)) if task.name in placement.routed else None
        made = []
        far = FAR_PLACES * sum(not self._is_near(number) for number in self._actors)
        for index, places in enumerate(queues_of(task, producers, placement.routes(task))):
            takers = {routed[index]} if routed else {hosts[index]} if task.keyed else set(hosts)
            owner = takers.pop() if len(takers) == 1 else HOME
            maxsize = max(places, far) if owner == HOME and task.instances == 1 else places
            made.append(self._queue(SharedMemoryQueueDescriptor(maxsize=maxsize), owner))
        return made

    def host(self, number: int) -> RayHandle:
        assert self._server is not None
        address, control = self._addresses[number], self._control(number)
        return RayHandle(self._actors[number], address, control, self._shared)

    def _control(self, number: int) -> NearControl | Control | CallsControl:
        assert self._server is not None
        if number in self._near:
            return NearControl(self._near.pop(number))
        return Control(self._server, self._addresses[HOME]) if self._caller is None else CallsControl(self._caller)

    def clear(self, lost: Collection[int]) -> None:
        """End the actors that are left, and what was begun for this attempt; the next is for the nodes that answer."""
        self._doubtful |= {seat.node for seat in self._seats if seat.number in lost}
        self._end_actors()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._addresses.clear()
        self._caller = None
        self._shipped = None

    def _look_around(self) -> None:
        """See which nodes are left: those that answer, and started what they were asked to."""
        self._nodes = [node for node in nodes_of_cluster(answering=True) if node.name not in self._left_out]
        self._seats = seats_on(self._nodes, self._wanted)

    def close(self) -> None:
        """The same, and let go of the cluster; one that was private ends with it."""
        self.clear(())
        self._held.close()

    def _end_actors(self) -> None:
        """Those of this machine are gone then; Ray sees to others, within seconds even where a node does not answer."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)
        machine, until = here(), time.monotonic() + GONE_S
        addresses = [self._addresses[number] for number in self._actors if number in self._addresses]
        near = [address.process for address in addresses if address.machine == machine]
        while near and time.monotonic() < until:
            near = [process for process in near if processor_s_of(process)]
            time.sleep(0.005)
        for link in self._near.values():
            link.close()
        self._near.clear()
        self._actors.clear()

    def _start_actors(self, graph: ExecutionGraph) -> set[str]:
        """All at once: a node starts several in the time of one. Returns the nodes that are too late, when the run
        begins again."""
        import ray

        began_s = time.monotonic()
        node_of = {seat.number: seat.node for seat in self._seats}
        for number, demands in demands_on(graph, self._placement).items():
            options = _options(demands, node_of[number])
            self._actors[number] = ray.remote(RayHost).options(**options).remote()
        home = self._addresses[HOME]
        with closing(Door(MOST_HOSTS)) as door:
            calls = {number: actor.listen.remote(self._key, home, door.name) for number, actor in self._actors.items()}
            gone = self._late({call: node_of[number] for number, call in calls.items()})
            if gone:
                return gone
            for number, call in calls.items():
                with _died(node_of[number]):
                    self._addresses[number], is_reached = ray.get(call)
                if not (is_reached and reaches(self._addresses[number])):
                    self._use_calls(self._addresses[number])
            near = {self._addresses[number].process: number for number in calls if self._is_near(number)}
            self._near = {near[process]: link for process, link in door.let_in(near).items()}
        if self._is_first:
            self._patience_s = max(AGAIN_S, 2 * (time.monotonic() - began_s))
        return set()

    def _late(self, calls: Mapping[Any, str]) -> set[str]:
        """Wait for the first word of all hosts, by node. Returns the nodes without, of those that lost one before."""
        doubtful = [call for call, node in calls.items() if node in self._doubtful]
        sure = [call for call, node in calls.items() if node not in self._doubtful]
        late = self._pending(sure, START_S)
        if late:
            raise _not_started(calls[late[0]], f"its node did not start it within {START_S:.0f} s")
        return {calls[call] for call in self._pending(doubtful, self._patience_s)}

    def _pending(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have not answered in time. Raises `Aborted`."""
        import ray

        late, until = list(calls), time.monotonic() + timeout_s
        while late and (left_s := until - time.monotonic()) > 0:
            if self._given_up.is_set():
                raise Aborted
            try:
                late = ray.wait(late, num_returns=len(late), timeout=min(LOOK_S, left_s))[1]
            except SystemError as error:  # how an interrupt inside Ray's own code comes out of it
                raise (error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else error) from None
        return late

    def _use_calls(self, unreachable: Address) -> None:
        """There is a node to or from which no connection can be opened: everything between nodes goes over Ray then."""
        if self._caller is None:
            _log.warning(
                "no connection can be opened between here and %s:%s: records travel in calls of Ray, which is slow",
                unreachable.host, unreachable.port,
            )  # fmt: skip
            self._caller = f"run-{secrets.token_hex(4)}"

    def _queue(self, memory: SharedMemoryQueueDescriptor, owner: int) -> Made:
        if self._caller is not None:
            called = called_by(self._caller, memory.maxsize)
            return Made(called, called.create())
        way = MachineWay(self._addresses[owner], memory)
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
