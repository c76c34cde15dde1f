"""Cases on a Ray cluster that somebody else started."""

from __future__ import annotations

from sage.bench.case import Case
from sage.bench.engine import EngineCluster
from sage.cluster import join
from sage.errors import UsageError


class JoinedCluster(EngineCluster):
    """The cluster at an address, of a name, or ``auto``. Cases of fewer nodes than it has run on some of them."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._address = address
        self._nodes: int | None = None

    def check(self, case: Case) -> None:
        """Raises as `sage.cluster.join` does, and `UsageError` E104 if the cluster has not the nodes of the case."""
        super().check(case)
        there = self._count()
        if case.nodes > there or (case.nodes < there and case.slots > 1 and not case.loads):
            raise UsageError(
                "E104", "this cluster cannot run the case", at=f"case {case.name}", got=f"{case.nodes} nodes",
                expected=f"{there}, as many as it has", try_=f"--nodes {there}, or --cluster emulated",
            )  # fmt: skip

    def _count(self) -> int:
        if self._nodes is None:
            self._nodes = len(join(self._address).nodes)
        return self._nodes
