"""A Ray cluster of two nodes across the laboratory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.errors import ClusterError
from sage.testing.network import Link, Network, RayCluster

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("laboratory"), pytest.mark.timeout(180)]

ON_B = """
import ray, socket, sys, time
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(logging_level="error")
nodes = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
def on_b(function, *arguments):
    strategy = On(nodes["b"], soft=False)
    return ray.get(ray.remote(function).options(scheduling_strategy=strategy).remote(*arguments))
"""


@pytest.fixture(scope="module")
def network(laboratory: None) -> Iterator[Network]:
    with Network(Link(delay_ms=0.5)) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(network: Network) -> Iterator[RayCluster]:
    with RayCluster(network) as made:
        yield made


def printed(cluster: RayCluster, program: str) -> list[str]:
    pipe = subprocess.PIPE
    done = cluster.run([sys.executable, "-c", ON_B + program], stdout=pipe, stderr=pipe, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    text: str = done.stdout
    return text.split()


def test_a_task_runs_on_the_second_node(cluster: RayCluster) -> None:
    program = "print(*sorted(nodes), socket.gethostname(), on_b(lambda: socket.gethostname()))"
    assert printed(cluster, program) == [*"abab"]


def test_an_array_crosses_once(cluster: RayCluster, network: Network) -> None:
    before = network.link("a", "b").crossed().bytes
    program = """
array = ray.put(bytes(16_000_000))
print(*(on_b(lambda data: len(data), array) for _ in range(2)))
"""
    assert printed(cluster, program) == ["16000000", "16000000"]
    assert 16_000_000 < network.link("a", "b").crossed().bytes - before < 24_000_000


def test_a_node_that_does_not_start_is_told() -> None:
    expected = r"E830 a node of the Ray cluster did not start at a: .*memory"
    with Network() as network, pytest.raises(ClusterError, match=expected):
        RayCluster(network, ["a"], object_store_mb=1)


def test_a_host_can_join_later_and_nothing_is_left_of_it() -> None:
    program = "print(*sorted(nodes), on_b(lambda: socket.gethostname()))"
    with Network() as network:
        with RayCluster(network, ["b"]) as cluster:
            cluster.join(network.host("c"))
            assert printed(cluster, program) == [*"bcb"]
            folder = cluster.cluster.folder
        assert cluster.head.call(lambda: os.listdir("/dev/shm")) == []
        assert folder is not None
        assert not folder.exists()
        ids = {network.host(name).network_id for name in "bc"}
        assert [link for link in Path("/proc").glob("[0-9]*/ns/net") if inode(link) in ids] == []


def inode(link: Path) -> int:
    try:
        return link.stat().st_ino
    except OSError:  # it ended
        return 0
