"""Clusters of real nodes: who reaches them, what they are, and what is left of them. Two are started in all."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ray_cluster import MARKS

from conftest import Wait
from sage.cli.ray_checks import ray_findings
from sage.cluster import Cluster, connect, join, private
from sage.cluster.sessions import members
from sage.errors import ClusterError, UsageError

pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")]
RAYS_OWN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with private(2, cpus=1, store_bytes=100_000_000, resources={"lab": 2}) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left_behind(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the usual check: Ray's own threads and sockets stay with the process that drove it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SAGE_DATA_DIR", str(tmp_path / "data"))
    for name in RAYS_OWN:
        monkeypatch.delenv(name, raising=False)


def rays_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def listeners(pids: set[int]) -> set[str]:
    """Where these processes listen, as the kernel writes it: ``0100007F:1F90``."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_all_of_it_listens_on_loopback(cluster: Cluster) -> None:
    found = listeners({process.pid for process in members(node.pid for node in cluster.nodes)})
    assert len(found) > 5
    hosts = {address.partition(":")[0] for address in found}
    assert hosts <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_its_token_is_for_its_user_alone(cluster: Cluster) -> None:
    assert cluster.token_path is not None
    assert cluster.token_path.stat().st_mode & 0o777 == 0o600
    assert cluster.token_path.parent.stat().st_mode & 0o777 == 0o700
    assert len(cluster.token_path.read_text()) == 64


def test_this_process_becomes_a_driver_and_no_driver_again(cluster: Cluster) -> None:
    before = rays_variables()
    with connect(cluster, log_to_driver=False, configure_logging=False) as ray:
        resources = ray.cluster_resources()
        assert (resources["CPU"], resources["lab"]) == (2, 4)
        assert {node["NodeID"] for node in ray.nodes()} == {node.node_id for node in cluster.nodes}
        session = ray.get(ray.remote(lambda: os.getsid(0)).remote())
        assert session in {node.pid for node in cluster.nodes}
        with pytest.raises(ClusterError, match="E839"), connect(cluster):
            pass
    assert rays_variables() == before
    assert not ray.is_initialized()


def test_joining_takes_the_token(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cluster.token_path is not None
    with pytest.raises(ClusterError, match=r"E833 .* got no token"):
        join(cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ClusterError, match=r"E833 .* got another token"):
        join(cluster.address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nothing"))
    with pytest.raises(ClusterError, match=r"E833 .* cannot be read"):
        join(cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token_path))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    found = join("auto")
    assert (found.address, found.token_path) == (cluster.address, cluster.token_path)
    assert found.nodes[0].node_id == cluster.nodes[0].node_id
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token_path.read_text())
    assert join("auto").environment()["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "a b:1", "host:", ":1", "[::1:6379", "http://host:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="E104 not the address"):
        join(address)


def test_where_nobody_answers() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ClusterError, match="E831 no Ray cluster answers"):
            join(f"127.0.0.1:{server.getsockname()[1]}")
    with pytest.raises(ClusterError, match="E836 no such cluster is up"):
        join("nobody")


@contextmanager
def another_head(ray_version: str, address: str) -> Iterator[str]:
    """What answers as the head of a cluster without a token would, of some version and with one node."""
    grpc = pytest.importorskip("grpc")
    messages = pytest.importorskip("ray.core.generated.gcs_service_pb2")
    services = pytest.importorskip("ray.core.generated.gcs_service_pb2_grpc")

    class Nodes(services.NodeInfoGcsServiceServicer):  # type: ignore[misc, name-defined]
        def GetAllNodeInfo(self, request: object, context: object) -> object:
            reply = messages.GetAllNodeInfoReply()
            reply.node_info_list.add(node_manager_address=address, is_head_node=True)
            return reply

    class Values(services.InternalKVGcsServiceServicer):  # type: ignore[misc, name-defined]
        def InternalKVGet(self, request: object, context: object) -> object:
            python = ".".join(map(str, sys.version_info[:3]))
            text = f'{{"ray_version": "{ray_version}", "python_version": "{python}"}}'
            return messages.InternalKVGetReply(value=text.encode())

    with ThreadPoolExecutor() as threads:
        server = grpc.server(threads)
        services.add_NodeInfoGcsServiceServicer_to_server(Nodes(), server)
        services.add_InternalKVGcsServiceServicer_to_server(Values(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_cluster_without_a_token_is_joined_only_if_told_to() -> None:
    import ray

    with another_head(ray.__version__, "127.0.0.1") as address:
        with pytest.raises(ClusterError, match=r"E832 .*--insecure-cluster"):
            join(address)
        assert join(address, insecure=True).environment()["RAY_AUTH_MODE"] == "disabled"
    with another_head("2.1.0", "127.0.0.1") as address, pytest.raises(ClusterError, match=r"E834 .*got Ray 2\.1\.0"):
        join(address, insecure=True)
    with (
        another_head(ray.__version__, "192.0.2.7") as address,
        pytest.raises(ClusterError, match=r"E840 .*192\.0\.2\.7"),
    ):
        join(address, insecure=True)


def test_the_doctor_looks_into_every_node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token_path))
    found = {finding.subject: finding for finding in ray_findings(cluster.address, insecure=False)}
    assert [*found] == ["ray", "ray ports", "ray cluster", "ray token", "node node-0", "node node-1"]
    assert {finding.level.value for finding in found.values()} == {"ok"}, found
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    *_, last = ray_findings(cluster.address, insecure=False)
    assert (last.subject, last.level.value) == ("ray cluster", "fail")


@pytest.mark.parametrize(
    ("options", "code"),
    [({"nodes": 0}, "E104"), ({"nodes": 201}, "E104"), ({"cpus": -1}, "E104"), ({"store_bytes": 1}, "E104")],
)
def test_numbers_that_cannot_be_used(options: dict[str, int], code: str) -> None:
    with pytest.raises(UsageError, match=code), private(**options):
        pass


def test_more_nodes_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.cluster.plan.free_memory_bytes", lambda: 1_000_000_000)
    with pytest.raises(ClusterError, match=r"E837 .* at 9 nodes: got 1\.0 GB free.*at most 2 nodes"), private(9):
        pass


def test_a_node_that_does_not_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="sage-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        expected = r"E830 .* at node-0: got .*`CPU` cannot be a custom resource"
        with pytest.raises(ClusterError, match=expected), private(1, 1, resources={"CPU": 1.5}):
            pass
        assert list(Path(folder).iterdir()) == []


STARTER = """
import signal
from sage.cluster import private
with private(1, cpus=1, store_bytes=80_000_000) as cluster:
    print(cluster.nodes[0].pid, cluster.folder, flush=True)
    signal.pause()
"""


def test_a_killed_starter_leaves_nothing(wait_until: Wait) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert members([int(pid)])
        starter.kill()
    wait_until(lambda: not members([int(pid)]) and not Path(folder).exists())


def test_what_is_left_of_a_dead_node_is_removed_and_the_others_live(cluster: Cluster, wait_until: Wait) -> None:
    head, other = (node.pid for node in cluster.nodes)
    os.kill(other, signal.SIGKILL)
    wait_until(lambda: not members([other]))
    assert members([head])
