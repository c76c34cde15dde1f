"""What a cluster is, as plain data: for those who connect to it, whoever started it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_PATIENCE_S = 600
"""What Ray gives its own processes to start, instead of 30 s: the deadline that counts is ours."""
SHARED_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": str(START_PATIENCE_S),
    "RAY_gcs_server_port_wait_time_s": str(START_PATIENCE_S),
}
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

    `token_path` holds the token that it asks for, None where it asks for none. `folder` is what it writes into, known
    where SAGE started it.
    """

    address: str
    nodes: tuple[Node, ...]
    token_path: Path | None
    folder: Path | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.address.startswith(f"{LOOPBACK}:")

    def environment(self) -> Mapping[str, str]:
        """What a child process needs in its environment, so that its ``ray.init()`` connects to this cluster.

        `FOREIGN_VARIABLES` that it does not name must not be set there; `command` sees to that.
        """
        return {"RAY_ADDRESS": self.address} | environment_for(self.token_path, is_loopback=self.is_loopback)

    def command(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """`argv`, with this environment around it."""
        foreign = (f"--unset={name}" for name in FOREIGN_VARIABLES)
        return ["env", *foreign, *(f"{name}={value}" for name, value in self.environment().items()), *argv]


def environment_for(token_path: Path | None, *, is_loopback: bool) -> dict[str, str]:
    """The variables for every process of a cluster, its drivers included.

    On Linux the variable with the long name means: keep to loopback, instead of listening on every address.
    """
    mode = {"RAY_AUTH_MODE": "disabled"}
    if token_path is not None:
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
    return SHARED_SETTINGS | mode | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if is_loopback else "1"}
