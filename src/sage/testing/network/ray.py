"""A Ray cluster across a network of the laboratory: a head on one host, a node on each other."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from sage.cluster.cluster import Cluster
from sage.cluster.keeping import Keeping
from sage.cluster.plan import NodePlan
from sage.testing.network.host import Argv, Host
from sage.testing.network.network import Network


class RayCluster:
    """Ray on the hosts `names` of `network`, the first of which is the head. It starts in 5 to 25 s.

    Every node has `cpus` CPUs; there is no dashboard, and who connects needs a token, which `popen` and `run` give to
    their programs. A context manager: at its end every process in these hosts is killed, also those that are not
    Ray's. Raises `MissingDependency` without Ray, `ClusterError` E830 if a node does not start.
    """

    def __init__(
        self, network: Network, names: Sequence[str] = ("a", "b"), *, cpus: int = 1, object_store_mb: int = 100
    ) -> None:
        self._hosts = [network.host(name) for name in names]
        self._cpus = cpus
        self._store_bytes = object_store_mb * 1_000_000
        self._keeping = Keeping(is_loopback=False)
        try:
            self._keeping.start([self._plan(host) for host in self._hosts])
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> Host:
        """The host of the head."""
        return self._hosts[0]

    @property
    def cluster(self) -> Cluster:
        """As plain data; its address is one inside the network."""
        return self._keeping.cluster

    def join(self, host: Host) -> None:
        """Start a node on a host that has none. Raises `ClusterError` E830.

        After `Host.kill`, Ray takes some ten seconds to see that the old node is dead, and lists both until then.
        """
        if host not in self._hosts:
            self._hosts.append(host)
        self._keeping.start([self._plan(host)])

    def popen(self, argv: Argv, *, host: Host | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Start a program, on the head if no host is given, whose ``ray.init()`` connects to the cluster."""
        return (host or self.head).popen(self.cluster.command(argv), **options)

    def run(self, argv: Argv, *, host: Host | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run such a program to its end; `options` are those of `subprocess.run`."""
        return (host or self.head).run(self.cluster.command(argv), **options)

    def close(self) -> None:
        """Kill everything in the hosts of the cluster. Safe to repeat."""
        with ExitStack() as stack:  # each of these happens, whichever of them fails
            stack.callback(self._keeping.close)
            for host in self._hosts:
                stack.callback(host.kill)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, host: Host) -> NodePlan:
        return NodePlan(
            host.name, self._cpus, self._store_bytes, address=host.address, namespaces=host.namespaces
        )  # fmt: skip
