"""One node of Ray, started by the process that calls this, and as long as it lives.

It uses Ray's `Node`, as ``ray start`` and ``ray.cluster_utils`` do: ``ray start`` can have a node of a cluster on every
address of the machine, or the head alone on loopback, but not all nodes on loopback.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from sage.cluster.plan import NodePlan

_VITAL = {"raylet", "gcs_server"}


def start_node(plan: NodePlan, folder: Path, head_address: str | None) -> Any:
    """The node, when all its processes run; it is the head of a new cluster without `head_address`.

    Raises what Ray raises.
    """
    parameter = import_module("ray._private.parameter")
    is_head = head_address is None
    own = str(os.getpid())  # nodes that start side by side would all choose the first free name, and all but one end
    params = parameter.RayParams(
        node_name=plan.name,
        node_ip_address=plan.address,
        temp_dir=str(folder / "ray"),  # Ray lets everybody write into it: not where the token is
        num_cpus=plan.cpus,
        num_gpus=plan.gpus,
        object_store_memory=plan.store_bytes,
        raylet_socket_name=str(folder / "ray" / "sockets" / f"raylet-{own}"),
        plasma_store_socket_name=str(folder / "ray" / "sockets" / f"store-{own}"),
        resources=dict(plan.resources),
        labels=dict(plan.labels),
        gcs_address=head_address,
        gcs_server_port=0 if is_head else None,
        min_worker_port=0,  # any free port, instead of a range that another cluster uses too
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        include_dashboard=False,
        include_log_monitor=plan.forwards_output,
        no_monitor=True,  # of a cluster that grows and shrinks
    )
    node = import_module("ray._private.node")
    return node.Node(params, head=is_head, shutdown_at_exit=False, spawn_reaper=True)


def wait_until_dead(node: Any) -> str:
    """Which of the processes that a node cannot do without has ended. The calling process has no other children."""
    while True:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        dead: set[str] = {kind for kind, _ in node.dead_processes()}
        if vital := dead & _VITAL:
            return min(vital)
