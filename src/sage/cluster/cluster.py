"""What a cluster is, as plain data: for those who connect to it, whoever started it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_PATIENCE_S = 40
"""What Ray gives its own processes to start, instead of 30 s: on a busy machine that is too short."""
SHARED_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": str(START_PATIENCE_S),
    "RAY_gcs_server_port_wait_time_s": str(START_PATIENCE_S),
    "RAY_agent_register_timeout_ms": str(START_PATIENCE_S * 1000),
    "RAY_worker_register_timeout_seconds": str(START_PATIENCE_S),
}
APART = "sage-apart"
"""The label of nodes that stand for machines of their own: nothing is shared with those that have another one."""
FOREIGN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_GCS_SERVER_PORT")
"""What would win over that, and so must not be set."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: a machine to Ray. `pid` leads the session of its processes, 0 where another program started them."""

    name: str
    node_id: str
    address: str
    cpus: float
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster that can be connected to; the first of `nodes` is its head.

    `token_path` holds the token that it asks for, None where it asks for none, or where the token is the variable
    ``RAY_AUTH_TOKEN`` of this process. `folder` is what it writes into, known where SAGE started it.
    """

    address: str
    nodes: tuple[Node, ...]
    token_path: Path | None
    folder: Path | None = None
    token_in_environment: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.nodes[0].address == LOOPBACK

    def environment(self) -> Mapping[str, str | None]:
        """What a process needs so that its ``ray.init()`` connects to this cluster; None: it must not be set."""
        unset = {name: None for name in FOREIGN_VARIABLES if name != "RAY_AUTH_TOKEN" or not self.token_in_environment}
        access = access_to(self.token_path, is_loopback=self.is_loopback)
        mode = {"RAY_AUTH_MODE": "token"} if self.token_in_environment else {}
        return unset | access | mode | {"RAY_ADDRESS": self.address}

    def command(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """`argv`, with this environment around it."""
        return with_environment(self.environment(), argv)


def access_to(token_path: Path | None, *, is_loopback: bool) -> dict[str, str]:
    """The variables for every process of a cluster, its drivers included.

    On Linux the variable with the long name means: keep to loopback, instead of listening on every address.
    """
    mode = {"RAY_AUTH_MODE": "disabled"}
    if token_path is not None:
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
    return SHARED_SETTINGS | mode | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if is_loopback else "1"}


def with_environment(variables: Mapping[str, str | None], argv: Sequence[str | Path]) -> list[str | Path]:
    """`argv` with the program ``env`` before it, which sets and unsets `variables`."""
    unset = (f"--unset={name}" for name, value in variables.items() if value is None)
    return ["env", *unset, *(f"{name}={value}" for name, value in variables.items() if value is not None), *argv]
