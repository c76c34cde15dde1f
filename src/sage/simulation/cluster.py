"""What is simulated: nodes, the network between them, and endpoints. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage.errors import UsageError
from sage.llm.simulated.profile import Profile

MOST_NODES = 100_000
RECORD_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class NodeModel:
    """A machine."""

    slots: int = 8
    """Records that it works on at once."""
    speed: float = 1.0
    """2.0 computes in half the time."""
    cores: int | None = None
    """Records that can compute at once; the others in slots wait for a core. None: computing is only sleeping."""


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """Between any two machines."""

    delay_s: float = 0.0005
    bytes_per_s: float = 125e6
    """Of one record's way alone: nodes do not crowd one another's links."""

    def transit_s(self, size_bytes: float = RECORD_BYTES) -> float:
        """From sending to having been received."""
        return self.delay_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """Everything that a run shares."""

    nodes: tuple[NodeModel, ...]
    network: NetworkModel = NetworkModel()
    endpoints: tuple[Profile, ...] = ()
    in_flight: int | None = None
    """Records that admitted jobs may have in flight together; None: as many as the endpoints take, and some more."""
    limited: bool = True
    """False: requests go to the endpoints at once, as many as come, in turn. True: as SAGE's pool does it."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.nodes) <= MOST_NODES:
            raise UsageError("E104", "bad number of nodes", got=len(self.nodes), expected=f"1 to {MOST_NODES}")
        for node in self.nodes:
            if node.slots < 1 or node.speed <= 0 or (node.cores is not None and node.cores < 1):
                raise UsageError("E104", "a node without slots, speed or cores", got=node, expected="more than 0")

    @property
    def slots(self) -> int:
        return sum(node.slots for node in self.nodes)


def nodes_of(count: int, *, slots: int = 8, speeds: Sequence[float] = (1.0,), cores: int | None = None) -> ClusterModel:
    """A cluster of `count` nodes, whose speeds are `speeds` in turn, without endpoints."""
    if not 1 <= count <= MOST_NODES:
        raise UsageError("E104", "bad number of nodes", got=count, expected=f"1 to {MOST_NODES}")
    return ClusterModel(tuple(NodeModel(slots, speeds[index % len(speeds)], cores) for index in range(count)))
