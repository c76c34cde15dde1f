"""One question to a cluster, answered or not within seconds; Ray itself asks again for half a minute and then exits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sage.cluster.cluster import Node
from sage.errors import ClusterError

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a cluster says of itself. `nodes` are those that are alive, the head first."""

    asks_for_token: bool
    nodes: tuple[Node, ...]
    ray_version: str
    python_version: str


def probe(address: str, token: str | None, patience_s: float = PATIENCE_S) -> Answer:
    """Ask the cluster at `address`. The token is sent to those only who ask for one.

    Raises `ClusterError`: E831 if nothing answers that is a head of Ray, E833 if it wants another token.
    """
    rpc = import_module("grpc")
    with rpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        head = _Head(channel, address, patience_s)
        nodes = head.nodes()
        if nodes is not None:
            return Answer(False, nodes, *head.versions())
        if token is None:
            raise _refused(address, "no token", "the RAY_AUTH_TOKEN_PATH that the cluster was started with")
        head.metadata = (("authorization", f"Bearer {token}"),)
        nodes = head.nodes()
        if nodes is None:
            raise _refused(address, "another token", "copying the token file of the head to this machine")
        return Answer(True, nodes, *head.versions())


class _Head:
    def __init__(self, channel: Any, address: str, patience_s: float) -> None:
        self._channel = channel
        self._address = address
        self._patience_s = patience_s
        self.metadata: tuple[tuple[str, str], ...] = ()

    def nodes(self) -> tuple[Node, ...] | None:
        """The living nodes; None if it wants another token."""
        services = import_module("ray.core.generated.gcs_service_pb2_grpc")
        messages = import_module("ray.core.generated.gcs_service_pb2")
        stub = services.NodeInfoGcsServiceStub(self._channel)
        reply = self._ask(stub.GetAllNodeInfo, messages.GetAllNodeInfoRequest())
        if reply is None:
            return None
        living = sorted((one for one in reply.node_info_list if one.state == 0), key=lambda one: not one.is_head_node)
        return tuple(
            Node(one.node_name, one.node_id.hex(), one.node_manager_address, one.resources_total.get("CPU", 0.0))
            for one in living
        )

    def versions(self) -> tuple[str, str]:
        """Of Ray and of Python, which Ray wants to be the same everywhere."""
        services = import_module("ray.core.generated.gcs_service_pb2_grpc")
        messages = import_module("ray.core.generated.gcs_service_pb2")
        stub = services.InternalKVGcsServiceStub(self._channel)
        reply = self._ask(
            stub.InternalKVGet, messages.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
        )
        found = json.loads(reply.value) if reply is not None and reply.value else {}
        return str(found.get("ray_version", "unknown")), str(found.get("python_version", "unknown"))

    def _ask(self, method: Any, request: Any) -> Any:
        rpc = import_module("grpc")
        try:
            return method(request, timeout=self._patience_s, metadata=self.metadata)
        except rpc.RpcError as error:
            if error.code() is rpc.StatusCode.UNAUTHENTICATED:
                return None
            raise ClusterError(
                "E831", "no Ray cluster answers", at=self._address, got=f"{error.code().name}: {error.details()}",
                try_="sage cluster status, or ray status on the head",
            ) from None  # fmt: skip


def _refused(address: str, got: str, try_: str) -> ClusterError:
    return ClusterError("E833", "the Ray cluster asks for its token", at=address, got=got, try_=try_)
