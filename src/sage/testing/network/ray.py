"""A Ray cluster across a network of the laboratory: a head on one host, a node on each other."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sage.errors import MissingDependency, UsageError
from sage.testing.network.host import Argv, Host
from sage.testing.network.network import Network

_PORT = 6379
_FOLDER = Path("/dev/shm/ray")  # each host has its own, which ends with it
_TOKEN = _FOLDER / "token"
_ACCESS = (
    "env", "-u", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={_TOKEN}",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1",  # or, where it is set to 0 here, Ray would keep to loopback
)  # fmt: skip
_START_S = 180.0  # of one node; a few seconds where the machine is idle


class RayCluster:
    """Ray on the hosts `names` of `network`, the first of which is the head. It starts in 5 to 25 s.

    Every node has `cpus` CPUs and its own folder; there is no dashboard, and who connects needs a token, which `popen`
    and `run` give to their programs. A context manager: at its end every process in these hosts is killed, also those
    that are not Ray's. Raises `MissingDependency` without Ray, `UsageError` E133 if a node does not start.
    """

    def __init__(
        self, network: Network, names: Sequence[str] = ("a", "b"), *, cpus: int = 1, object_store_mb: int = 100
    ) -> None:
        if find_spec("ray") is None:
            raise MissingDependency("ray[default]", "ray", "a Ray cluster in the network laboratory")
        self.head, *others = [network.host(name) for name in names]
        self.address = f"{self.head.address}:{_PORT}"
        self._hosts: list[Host] = []
        self._node = [f"--num-cpus={cpus}", f"--object-store-memory={object_store_mb * 1_000_000}"]
        self._token = secrets.token_hex(32)
        try:
            self._start(self.head, "--head", f"--port={_PORT}", "--include-dashboard=false")
            for host in others:
                self.join(host)
        except BaseException:
            self.close()
            raise

    def join(self, host: Host) -> None:
        """Start a node on a host that has none. Raises `UsageError` E133.

        After `Host.kill`, Ray takes some ten seconds to see that the old node is dead, and lists both until then.
        """
        self._start(host, f"--address={self.address}")

    def popen(self, argv: Argv, *, host: Host | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Start a program, on the head if no host is given, whose ``ray.init()`` connects to the cluster."""
        return (host or self.head).popen(self._with_access(argv), **options)

    def run(self, argv: Argv, *, host: Host | None = None, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run such a program to its end; `options` are those of `subprocess.run`."""
        return (host or self.head).run(self._with_access(argv), **options)

    def close(self) -> None:
        """Kill everything in the hosts of the cluster. Safe to repeat."""
        for host in self._hosts:
            host.kill()
            host.call(partial(shutil.rmtree, _FOLDER))
        self._hosts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _with_access(self, argv: Argv) -> list[str | Path]:
        return [*_ACCESS, f"RAY_ADDRESS={self.address}", *argv]

    def _write_token(self) -> None:
        _FOLDER.mkdir(exist_ok=True)
        _TOKEN.touch(mode=0o600)
        _TOKEN.write_text(self._token)

    def _start(self, host: Host, *options: str) -> None:
        host.call(self._write_token)
        if host not in self._hosts:
            self._hosts.append(host)
        command = [
            *_ACCESS,
            f"RAY_raylet_start_wait_time_s={_START_S:.0f}",  # 30 by default: too short for a busy machine
            *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"),
            *(f"--node-ip-address={host.address}", f"--temp-dir={_FOLDER}", *self._node, *options),
        ]
        with tempfile.TemporaryFile() as log:  # no pipe: what it starts would keep it open
            try:
                host.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=_START_S, check=True)
            except subprocess.SubprocessError as error:
                log.seek(0)
                raise UsageError(
                    "E133",
                    "a node of the Ray cluster did not start",
                    at=f"host {host.name}",
                    got=log.read()[-200:].decode(errors="replace"),
                    expected=f"that it starts within {_START_S:.0f} s",
                ) from error
