"""The nodes on which a run that lost a host begins again: those that say something."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from sage.runtime import ray_cluster


@pytest.fixture
def servers() -> Iterator[list[socket.socket]]:
    """The kernel takes connections for all of them, as it does for a process that stands still."""
    with ExitStack() as held:
        yield [held.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(3)]


def node(name: str, address: tuple[str, int]) -> dict[str, Any]:
    host, port = address
    return {
        "NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}, "NodeManagerAddress": host, "NodeManagerPort": port
    }  # fmt: skip


def answering(server: socket.socket) -> None:
    while True:
        try:
            connection = server.accept()[0]
        except OSError:  # shut down
            return
        with closing(connection), suppress(OSError):
            connection.sendall(b"\0")
            connection.recv(1000)


def test_who_takes_a_connection_and_says_nothing_is_left_out(
    servers: list[socket.socket], wait_until: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    nodes = [
        node(name, server.getsockname()) for name, server in zip(("lively", "still", "gone"), servers, strict=True)
    ]
    servers[2].close()
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_cluster, "ANSWER_S", 0.2)

    def names() -> list[str]:
        return [one.name for one in ray_cluster.nodes_of_cluster(answering=True)]

    lively = threading.Thread(target=answering, args=servers[:1])
    lively.start()
    wait_until(lambda: names() == ["lively"])
    servers[0].shutdown(socket.SHUT_RDWR)
    lively.join()
    assert names() == ["gone", "lively", "still"], "where none says anything, that tells nothing of any"
